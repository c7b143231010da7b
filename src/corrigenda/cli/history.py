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
    from corrigenda.storage.corrections.intake import Intake
    from corrigenda.storage.objects.interface import ObjectStore
    from corrigenda.storage.releases.refs import Ref

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
    from corrigenda.storage.releases import refs

    state = open_state(load_fleet(config))
    refs.require(state, model, "latest")
    rows = [_move(state, ref) for ref in refs.log(state, model, "latest")]
    if json:
        print(jsonlib.dumps(rows, ensure_ascii=False))
        return
    shown = [
        {**row} | {"moved_at": row["moved_at"][:19], "ledger": pairs(_held(row["counts"]))} for row in rows
    ]
    print_table(["release", "moved_at", "layer", "ledger", "reason"], shown)


def show(
    correction_id: Annotated[str, typer.Argument(metavar="CORRECTION_ID", show_default=False)],
    model: Annotated[str | None, typer.Option(help="One model only.")] = None,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """A correction's whole history, and its probe results through releases.

    What waits in the queue for the next run is shown, too, and rows of it that were rejected.

    Examples:
      corrigenda show mayor-2031
      corrigenda show mayor-2031 --model llama-8b --json
    """
    from corrigenda.config import load_fleet
    from corrigenda.errors import NotFoundError

    fleet = load_fleet(config)
    state = open_state(fleet)
    names = [fleet.model(model).name] if model else [entry.name for entry in fleet.models]
    told = {
        "history": [row for name in names for row in _history(state, name, correction_id)],
        **_queued(fleet, state, names, correction_id),
    }
    if not any(told.values()):
        raise NotFoundError(
            "nobody has heard of this correction: no release, no row that waits, no reject",
            remedy="Check the id, and for which model it was",
            correction_id=correction_id,
            models=names,
        )
    told["probes"] = _probes(config, correction_id, model)
    if json:
        print(jsonlib.dumps({"correction_id": correction_id, **told}, ensure_ascii=False, default=str))
        return
    _print_history(told)


def open_state(fleet: Fleet) -> ObjectStore:
    """The store of a configuration. Raises SetupError when it is not there."""
    from corrigenda.storage.objects.opening import open_store

    return open_store(fleet.store, root=fleet.root)


def waiting(fleet: Fleet, state: ObjectStore, consumed: Mapping[str, frozenset[str]]) -> Intake:
    """What the queue holds that is new to these models; an absent queue directory is an empty queue.

    consumed   per model, the queue files that its release has consumed
    """
    from corrigenda.errors import SetupError
    from corrigenda.storage.corrections import intake
    from corrigenda.storage.objects.opening import open_store

    try:
        queue = open_store(fleet.queue, root=fleet.root)
    except SetupError as fault:
        if fault.retryable:
            raise
        return intake.nothing(consumed)
    return intake.look(queue, state, fleet, consumed)


def rejects(state: ObjectStore, found: Intake) -> list[dict[str, Any]]:
    """Rejects on record, and those of files that no run has read yet."""
    from corrigenda.storage.corrections import intake

    on_record = intake.rejects(state).to_pylist()
    fresh = [row for table in found.rejects.values() for row in table.to_pylist()]
    read = set(found.rejects)
    return [row for row in on_record if row["file_digest"] not in read] + fresh


def _move(state: ObjectStore, ref: Ref) -> dict[str, Any]:
    from corrigenda.errors import NotFoundError
    from corrigenda.storage.releases import manifests

    row = {"release": ref.release, "moved_at": ref.moved_at, "reason": ref.reason, "manifest": ref.manifest}
    try:
        release = manifests.by_digest(state, ref.manifest)
    except NotFoundError:  # cleaned away since
        return row | {"layer": None, "counts": {}, "bytes": None}
    return row | {"layer": release.layer, "counts": dict(release.counts), "bytes": release.size}


def _history(state: ObjectStore, name: str, correction_id: str) -> list[dict[str, Any]]:
    from corrigenda.storage.releases import refs, snapshots

    if refs.read(state, name, "latest").ref is None:
        return []
    rows = []
    for episode in snapshots.episodes(state, name, correction_id):
        entry, told = episode.entry, episode.entry.correction
        rows.append(
            {
                "model": name,
                "release": episode.release,
                "at": episode.at,
                "version": entry.digest,
                "action": told.action,
                "state": entry.state,
                "why": entry.why,
                "by": entry.by,
                "by_id": episode.by_id,
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


def _queued(
    fleet: Fleet, state: ObjectStore, names: Sequence[str], correction_id: str
) -> dict[str, list[dict[str, Any]]]:
    """Rows of that id which the next run will read, and those that were refused."""
    from corrigenda.storage.releases import snapshots

    found = waiting(fleet, state, {name: snapshots.current(state, name).consumed for name in names})
    rows = [
        {"model": name, "asserted_at": told.asserted_at.isoformat(), "file": arrival.file}
        | {field: getattr(told, field) for field in ("action", "subject", "prompt", "target_new")}
        | {field: getattr(told, field) for field in ("source", "reason")}
        for name in names
        for arrival in found.of(name).arrivals()
        if (told := arrival.correction).correction_id == correction_id
    ]
    refused = [row for row in rejects(state, found) if row["correction_id"] == correction_id]
    return {"waiting": rows, "rejects": refused}


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


def _held(counts: Mapping[str, Any]) -> dict[str, Any]:
    """The states of a ledger in their usual order, without those that hold nothing."""
    from corrigenda.storage.corrections.rules import STATES

    return {state: counts[state] for state in STATES if counts.get(state)}


def _print_history(told: Mapping[str, Sequence[Row]]) -> None:
    """The fact in one line, what became of it, what waits, what was refused, and its probes."""
    history, queued = told["history"], told["waiting"]
    for row in [row for row in (*history, *queued) if row["action"] == "upsert"][-1:]:
        print(f"{row['prompt'].replace('{}', row['subject'])} -> {row['target_new']}")
    shown = [
        {**row}
        | {"version": row["version"][:8], "at": row["at"][:19], "asserted_at": row["asserted_at"][:19]}
        # A mark's reason holds its evidence, which has a line of its own below.
        | {"why": (row["why"] or "").partition(":")[0] + (f" {row['by_id']}" if row["by_id"] else "")}
        for row in history
    ]
    shown += [
        {**row}
        | dict.fromkeys(("release", "at", "version", "why"))
        | {"state": "waiting", "asserted_at": row["asserted_at"][:19]}
        for row in queued
    ]
    when = ["model", "release", "at", "version", "action", "state", "why"]
    if shown:
        print_table([*when, "asserted_at", "target_new", "source", "reason"], shown)
    for row in history:
        if row["evidence"]:
            more = {name: value for name, value in row["evidence"].items() if str(value) not in row["why"]}
            more = {name: value for name, value in more.items() if name not in ("correction_id", "enough")}
            said = f"{row['why']} ({pairs(more)})" if more else row["why"]
            print(f"{row['model']}@{row['release']} {row['state']}: {said}")
    if told["rejects"]:
        print_table(["file", "row", "reason", "column", "value", "remedy"], told["rejects"])
    if told["probes"]:
        what = ["model", "release", "kind", "prompt", "expected", "says_before", "says_after", "pass"]
        print_table(what, told["probes"])
