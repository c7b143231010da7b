"""`corrigenda serve`: the nights of one machine, with nothing else to install or to start."""

from __future__ import annotations

from typing import Annotated

import typer

from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG


def register(app: typer.Typer) -> None:
    app.command("serve", rich_help_panel="Pipeline")(serve)


def serve(
    cron: Annotated[str, typer.Option(help="When the nights begin.")] = "0 2 * * *",
    timezone: Annotated[str, typer.Option(help="Of the schedule.")] = "UTC",
    port: Annotated[int, typer.Option(help="Where the embedded server shows the nights.")] = 4200,
    config: CONFIG = DEFAULT_CONFIG,
) -> None:
    """Run the nights by schedule, until ended: schedule, server and flow on one machine, no work pool.

    For a service manager: see deployments/systemd. Runs are at http://127.0.0.1:4200.

    Examples:
      corrigenda serve
      corrigenda serve --cron "30 1 * * *" --timezone Europe/Berlin
    """
    from corrigenda.api.fleet import Fleet

    typer.echo(f"nights at {cron!r} ({timezone}); they are shown at http://127.0.0.1:{port}", err=True)
    Fleet.open(config).serve(cron, timezone=timezone, port=port)
