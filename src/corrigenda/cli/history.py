"""`corrigenda log` and `show`: how a model, and one correction, came to stand where they stand."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON
from corrigenda.cli.tables import pairs, print_table

if TYPE_CHECKING:
    from corrigenda.config import Fleet
    from corrigenda.storage.objects import ObjectStore
    from corrigenda.storage.refs import Ref

Row = Mapping[str, Any]
MODEL = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.", show_default=False)]


def register(app: typer.Typer) -> None:
    app.command("log")(log)
    app.command("show")(show)


def log(model: MODEL, config: CONFIG = DEFAULT_CONFIG, json: JSON = False) -> None:
    """Every move of `latest`, newest first, rollbacks included, and what the release holds.

    Example:
      corrigenda log smollm2-135m
    """
    from corrigenda.config import load_fleet
    from corrigenda.storage import refs

    state = open_state(load_fleet(config))
    refs.require(state, model, "latest")
    rows = [_move(state, ref) for ref in refs.log(state, model, "latest")]
    if json:
        print(jsonlib.dumps(rows, ensure_ascii=False))
        return
    shown = [{**row} | {"moved_at": row["moved_at"][:19], "counts": pairs(row["counts"])} for row in rows]
    print_table(["release", "moved_at", "layer", "counts", "reason"], shown)


def show(
    correction_id: Annotated[str, typer.Argument(metavar="CORRECTION_ID", show_default=False)],
    model: Annotated[str | None, typer.Option(help="One model only.")] = None,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """A correction's whole history, and its probe results through releases.

    Examples:
      corrigenda show mayor-2031
      corrigenda show mayor-2031 --model llama-8b --json
    """
    from corrigenda.config import load_fleet
    from corrigenda.errors import NotFoundError

    fleet = load_fleet(config)
    state = open_state(fleet)
    names = [fleet.model(model).name] if model else [entry.name for entry in fleet.models]
    history = [row for name in names for row in _history(state, name, correction_id)]
    if not history:
        raise NotFoundError(
            "no release knows this correction",
            remedy="Check the id; it may wait in the queue, or be among `corrigenda status --rejects`",
            correction_id=correction_id,
        )
    probes = _probes(config, correction_id, model)
    if json:
        said = {"correction_id": correction_id, "history": history, "probes": probes}
        print(jsonlib.dumps(said, ensure_ascii=False, default=str))
        return
    _print_history(history)
    if probes:
        print_table(
            ["model", "release", "kind", "prompt", "expected", "says_before", "says_after", "pass"], probes
        )


def open_state(fleet: Fleet) -> ObjectStore:
    """The store of a configuration. Raises SetupError when it is not there."""
    from corrigenda.storage.objects import open_store

    return open_store(fleet.store, root=fleet.root)


def _move(state: ObjectStore, ref: Ref) -> dict[str, Any]:
    from corrigenda.errors import NotFoundError
    from corrigenda.storage import manifests

    row = {"release": ref.release, "moved_at": ref.moved_at, "reason": ref.reason, "manifest": ref.manifest}
    try:
        release = manifests.by_digest(state, ref.manifest)
    except NotFoundError:  # cleaned away since
        return row | {"layer": None, "counts": {}, "bytes": None}
    return row | {"layer": release.layer, "counts": dict(release.counts), "bytes": release.size}


def _history(state: ObjectStore, name: str, correction_id: str) -> list[dict[str, Any]]:
    from corrigenda.storage import refs, snapshots

    if refs.read(state, name, "latest").ref is None:
        return []
    rows = []
    for episode in snapshots.episodes(state, name, correction_id):
        entry, told = episode.entry, episode.entry.correction
        rows.append(
            {
                "model": name,
                "release": episode.release,
                "version": entry.digest,
                "action": told.action,
                "state": entry.state,
                "why": entry.why,
                "by": entry.by,
                "asserted_at": told.asserted_at.isoformat(),
                "subject": told.subject,
                "prompt": told.prompt,
                "target_new": told.target_new,
                "source": told.source,
                "reason": told.reason,
                "file": entry.file,
                "evidence": dict(entry.mark.evidence) if entry.mark else None,
            }
        )
    return rows


def _probes(config: Path, correction_id: str, model: str | None) -> list[dict[str, Any]]:
    from corrigenda.cli.results import connected
    from corrigenda.validation import results
    from corrigenda.validation.queries import sql

    asked = {"correction_id": correction_id, "model": model}
    with connected(config, model) as connection:
        rows = results.query(connection, sql("correction_probes"), **asked).to_pylist()
    return [row | {"pass": _passes(row)} for row in rows]


def _passes(row: Row) -> str:
    return " -> ".join("yes" if row[name] else "no" for name in ("pass_before", "pass_after"))


def _print_history(history: Sequence[Row]) -> None:
    for told in [row for row in history if row["action"] == "upsert"][-1:]:
        print(f"{told['prompt'].replace('{}', told['subject'])} -> {told['target_new']}")
    shown = [
        {**row} | {"version": row["version"][:8], "asserted_at": row["asserted_at"][:19]} for row in history
    ]
    print_table(
        ["model", "release", "version", "action", "state", "why", "asserted_at", "target_new", "source"],
        shown,
    )
    for row in history:
        if row["evidence"]:
            print(f"{row['model']}@{row['release']} {row['state']} ({row['why']}): {pairs(row['evidence'])}")
