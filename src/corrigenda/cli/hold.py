"""`corrigenda hold`: a release that stays, night after night, until it is let go."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from typing import Annotated

import typer

from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON


def register(app: typer.Typer) -> None:
    app.command("hold")(hold)


def hold(
    model: Annotated[str, typer.Argument(help="A model's name.")],
    at: Annotated[int | None, typer.Option("--at", help="The release [default: the present one].")] = None,
    why: Annotated[str, typer.Option(help="For those who look at `status`.")] = "",
    lift: Annotated[
        bool, typer.Option("--lift", help="End the hold: the next night publishes again.")
    ] = False,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Keep `latest` at a release over nights. A rollback alone is undone by the next night.

    What is queued meanwhile waits. A night that is under way stops before it publishes.

    Examples:
      corrigenda hold smollm2-135m --at 3 --why "answers in French since release 4"
      corrigenda hold smollm2-135m --lift
    """
    from corrigenda.api.fleet import Fleet
    from corrigenda.errors import UsageError

    fleet = Fleet.open(config)
    if lift and (at is not None or why):
        raise UsageError(
            "a hold is placed or lifted", remedy="Leave out --lift, or --at and --why", model=model
        )
    found = fleet.lift(model) if lift else fleet.hold(model, at=at, why=why)
    if json:
        print(jsonlib.dumps({"model": model, "lifted": lift, "hold": asdict(found) if found else None}))
    elif found is None:
        print(f"{model}: there was no hold")
    elif lift:
        print(f"{model}: no longer held at release {found.release}; the next night publishes again")
    else:
        print(f"{model}: held at release {found.release} until `corrigenda hold {model} --lift`")
