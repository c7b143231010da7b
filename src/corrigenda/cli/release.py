"""`corrigenda pull` and `corrigenda rollback`: releases to serving hosts, and back again.

Works with the base install: neither torch nor an orchestrator is imported.
"""

from __future__ import annotations

import json as jsonlib
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrigenda import terminal
from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON

if TYPE_CHECKING:
    from rich.progress import Progress

    from corrigenda.api.fleet import Fleet
    from corrigenda.api.values import Adapter, Pulled, Verified

VERIFY_KEY = Annotated[
    list[Path] | None,
    typer.Option(
        "--verify-key",
        help="A public key (PEM): refuse what it has not signed; repeatable, one of them must have "
        r"\[default: fleet.toml's].",
        envvar="CORRIGENDA_VERIFY_KEY",
        show_default=False,
    ),
]
VERIFY = Annotated[
    bool,
    typer.Option(
        "--verify/--no-verify",
        help="--no-verify: take what nobody has signed, whatever fleet.toml or an earlier pull says.",
    ),
]
ALLOW_OLDER = Annotated[
    bool,
    typer.Option(
        "--allow-older",
        help="Take a `latest` that is older than what DEST has seen, has expired or is not signed itself; "
        "the release must be signed all the same.",
    ),
]
DEST = Annotated[Path, typer.Argument(help="The directory to make or to update.", show_default=False)]


class PullLayout(StrEnum):
    """What a release is materialised as."""

    full = "full"
    lora = "lora"


def register(app: typer.Typer) -> None:
    app.command("pull")(pull)
    app.command("rollback")(rollback)


def pull(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[@REF]", help="REF: latest (default), canary, or a number. 0 is the base."
        ),
    ],
    dest: DEST,
    store: Annotated[
        str | None, typer.Option(help="A directory or s3://bucket/prefix, instead of fleet.toml's store.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="A folder of blobs that several destinations share by hard links.", envvar="CORRIGENDA_BLOBS"
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only verify DEST against its manifest; needs no network.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Hash everything again, and mend what is wrong.")
    ] = False,
    verify_key: VERIFY_KEY = None,
    verify: VERIFY = True,
    allow_older: ALLOW_OLDER = False,
    layout: Annotated[
        PullLayout, typer.Option(help="full: the whole directory. lora: a PEFT adapter for the base.")
    ] = PullLayout.full,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Make DEST a release: verified, resumable, only what is missing, switched in one step.

    DEST becomes a link to a finished Hugging Face directory; anything that loads such directories loads it.

    Examples:
      corrigenda pull smollm2-135m ./model
      corrigenda pull smollm2-135m@3 ./model --store s3://models/fleet
      corrigenda pull smollm2-135m ./model --check
      corrigenda pull smollm2-135m ./model --verify-key publisher.pub
      corrigenda pull smollm2-135m ./adapter --layout lora
    """
    from corrigenda.api import alone

    trusted = _trusted(verify_key, config) if verify else []
    if check:
        _check(alone.check(target, dest, trusted=trusted), json)
        return
    opened = alone.open_store(store) if store else _fleet(config).store
    if layout is PullLayout.lora:
        made = alone.export_lora(target, dest, store=opened, trusted=trusted, allow_older=allow_older)
        _say_exported(made, dest, json)
        return
    with _bar() as bar:
        task = bar.add_task(terminal.neutral(f"pulling {target}"), total=None)
        done = alone.pull(
            target,
            dest,
            store=opened,
            cache=cache,
            repair=repair,
            trusted=trusted,
            verify=verify,
            allow_older=allow_older,
            progress=lambda size: bar.update(task, advance=size),
        )
    _say_pulled(done, json)


def rollback(
    model: Annotated[str, typer.Argument(help="A model's name.")],
    to: Annotated[int, typer.Option("--to", help="The release that `latest` shall point to.")],
    reason: Annotated[str, typer.Option(help="Kept in the ref's log.")] = "",
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Move `latest` back to an older release, at once and recorded.

    Ledger and queue move with it: corrections that later releases took in wait in the queue again, so
    retract those that you do not want before the next run.

    Example:
      corrigenda rollback smollm2-135m --to 3 --reason "answers in French"
    """
    moved = _fleet(config).rollback(model, to=to, reason=reason)
    if json:
        said = {"model": model, "release": moved.release, "manifest": moved.manifest}
        print(jsonlib.dumps(said | {"reason": moved.reason}))
    else:
        print(f"{model}: latest is release {moved.release} ({moved.reason})")


def _fleet(config: Path) -> Fleet:
    from corrigenda.api.fleet import Fleet

    return Fleet.open(config)


def _trusted(keys: list[Path] | None, config: Path) -> list[Path]:
    """The public keys to hold releases against: those that were named, else the fleet's, in any store."""
    return keys or (_fleet(config).trusted if config.exists() else [])


def _check(found: Verified, json: bool) -> None:
    from corrigenda.errors import CorruptBlobError

    release, faults = found.release, list(found.faults)
    if json:
        print(jsonlib.dumps({"model": release.model, "release": release.number, "faults": faults}))
    if faults:
        raise CorruptBlobError(
            "the directory is not what its manifest says", remedy="Pull it with --repair", faults=faults[:10]
        )
    if not json:
        print(f"{release.model}@{release.number}: {len(release.files)} files are whole")


def _say_exported(made: Adapter, dest: Path, json: bool) -> None:
    release = made.release
    if json:
        said = {"model": release.model, "release": release.number, "path": str(dest), "rank": made.rank}
        errors = {"relative_error": made.relative_error, "largest_error": made.largest_error}
        print(jsonlib.dumps(said | errors))
        return
    left_out = f"relative error {made.relative_error:.1e}, at most {made.largest_error:.1e} in one weight"
    print(f"{dest}: {release.model}@{release.number} as an adapter of rank {made.rank}; {left_out}")


def _say_pulled(done: Pulled, json: bool) -> None:
    release = done.release
    if json:
        said = {"model": release.model, "release": release.number, "manifest": release.digest}
        sizes = {
            "downloaded_bytes": done.downloaded,
            "reused_bytes": done.reused,
            "current": done.was_current,
        }
        print(jsonlib.dumps(said | {"path": str(done.path)} | sizes))
        return
    what = "is up to date" if done.was_current else f"{done.downloaded:,} bytes new, {done.reused:,} reused"
    print(f"{done.path}: {release.model}@{release.number}, {what}")


def _bar() -> AbstractContextManager[Progress]:
    from rich.progress import DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn())
    return Progress(*columns, console=terminal.console(stderr=True), transient=True)
