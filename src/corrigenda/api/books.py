"""Where models and corrections stand, and how they came to stand there: ledgers, refs, and what waits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corrigenda.api.opened import queue_of, store_of
from corrigenda.api.values import (
    Chapter,
    FleetStatus,
    LastNight,
    ModelStatus,
    Move,
    QueueProblem,
    Reject,
    Story,
    Waiting,
)
from corrigenda.config import FleetConfig
from corrigenda.errors import CorruptBlobError, NotFoundError, SetupError
from corrigenda.facts import Warn
from corrigenda.pipeline import diary
from corrigenda.storage.corrections import intake
from corrigenda.storage.corrections.intake import Intake
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import chronicle, hold, refs, snapshots
from corrigenda.storage.releases.chronicle import Chronicle
from corrigenda.storage.releases.refs import Ref
from corrigenda.storage.releases.snapshots import Episode, Head


def waiting(fleet: FleetConfig, state: ObjectStore, consumed: Mapping[str, frozenset[str]]) -> Intake:
    """What the queue holds that is new to these models.

    consumed   per model, the queue files that its release has consumed
    """
    return intake.look(queue_of(fleet), state, fleet, consumed)


def rejects(state: ObjectStore, found: Intake) -> Iterator[Reject]:
    """Rejects on record, and those of files that no run has read yet."""
    fresh = [row for table in found.rejects.values() for row in table.to_pylist()]
    for row in intake.rejects(state).to_pylist():
        if row["file_digest"] not in found.rejects:
            yield Reject.of(row)
    yield from map(Reject.of, fresh)


def status(fleet: FleetConfig, names: Sequence[str]) -> FleetStatus:
    """Refs, ledger counts, what waits, what was rejected. A damaged model does not hide the others."""
    state = store_of(fleet, absent_ok=True)
    known, damaged = _snapshots(state, names)
    found = waiting(fleet, state, {name: one.consumed for name, one in known.items()})
    nights = diary.latest(state, known.keys())
    return FleetStatus(
        models=tuple(_model_status(state, name, one, found, nights[name]) for name, one in known.items()),
        damaged=damaged,
        problems=tuple(QueueProblem(p.file, p.reason, p.detail, p.remedy) for p in found.problems),
        rejects=tuple(rejects(state, found)),
        notes=() if any(one.release for one in known.values()) else tuple(_notes(fleet)),
    )


def _notes(fleet: FleetConfig) -> Iterator[str]:
    """An address that is mistyped looks like a fleet that has never run: so it is said."""
    try:
        store_of(fleet)
    except SetupError as fault:
        yield f"there is no store at {fault.facts.get('path')} yet: the first `corrigenda run` makes it"


def _snapshots(state: ObjectStore, names: Sequence[str]) -> tuple[dict[str, Head], dict[str, str]]:
    found: dict[str, Head] = {}
    damaged: dict[str, str] = {}
    for name in names:
        try:
            found[name] = snapshots.head(state, name)
        except (CorruptBlobError, NotFoundError) as fault:
            damaged[name] = str(fault)
    return found, damaged


def _model_status(
    state: ObjectStore, name: str, head: Head, found: Intake, nights: Sequence[Mapping[str, Any]]
) -> ModelStatus:
    held = hold.read(state, name)
    ref, canary = head.seen.ref, refs.peek(state, name, "canary").ref
    new = found.of(name)
    return ModelStatus(
        model=name,
        latest=ref.release if ref else None,
        canary=canary.release if canary else None,
        since=ref.moved_at if ref else None,
        layer=head.release.layer if head.release else None,
        ledger={str(state): count for state, count in head.counts.items()},
        waiting_rows=new.rows.num_rows,
        waiting_files=len(new.files),
        night=_last_night(nights),
        held=f"at {held.release} by {held.who}: {held.why}" if held else None,
    )


def _last_night(nights: Sequence[Mapping[str, Any]]) -> LastNight | None:
    if not nights:
        return None
    well = [night["ended_at"] for night in nights if night["status"] in diary.WELL]
    facts = {name: nights[0][name] for name in ("run_id", "status", "ended_at", "duration_s", "error")}
    return LastNight(**facts, went_well_at=well[0] if well else None)


def log(state: ObjectStore, model: str) -> Iterator[Move]:
    """Every move of `latest`, newest first. Raises NotFoundError for a model that nobody registered."""
    head = refs.require(state, model, "latest")
    known = chronicle.load(state, model)
    return (move(state, ref, known) for ref in chronicle.moves(state, known, head))


def move(state: ObjectStore, ref: Ref, known: Chronicle | None = None) -> Move:
    """A ref, with what its release holds."""
    try:
        line = chronicle.line_of(state, known or Chronicle(), ref.manifest)
    except NotFoundError:  # cleaned away since
        return Move(ref.release, ref.moved_at, ref.reason, ref.manifest)
    counts = dict(line.counts)
    return Move(ref.release, ref.moved_at, ref.reason, ref.manifest, line.layer, counts, line.size)


def story(fleet: FleetConfig, names: Sequence[str], correction_id: str, warn: Warn = warnings.warn) -> Story:
    """All that is known of a correction, but for its probes. Raises NotFoundError when nobody knows of it.

    warn   told of models that are damaged; they do not hide the others
    """
    state = store_of(fleet, absent_ok=True)
    known, damaged = _snapshots(state, names)
    for name, fault in damaged.items():
        warn(f"{name}: {fault}")
    found = waiting(fleet, state, {name: one.consumed for name, one in known.items()})
    told = Story(
        correction_id=correction_id,
        history=tuple(one for name in known for one in _history(state, name, correction_id, warn)),
        waiting=tuple(one for name in known for one in _waiting(found, name, correction_id)),
        rejects=tuple(one for one in rejects(state, found) if one.correction_id == correction_id),
    )
    if not (told.history or told.waiting or told.rejects):
        raise NotFoundError(
            "nobody has heard of this correction: no release, no row that waits, no reject",
            remedy="Check the id, and for which model it was",
            correction_id=correction_id,
            models=list(names),
        )
    return told


def _history(state: ObjectStore, name: str, correction_id: str, warn: Warn) -> Iterator[Chapter]:
    if refs.read(state, name, "latest").ref is not None:
        try:
            for episode in snapshots.episodes(state, name, correction_id):
                yield _chapter(name, episode)
        except (CorruptBlobError, NotFoundError) as fault:
            warn(f"{name}: {fault}")


def _chapter(name: str, episode: Episode) -> Chapter:
    entry, told = episode.entry, episode.entry.correction
    return Chapter(
        model=name,
        release=episode.release,
        at=episode.at,
        version=entry.digest,
        action=told.action,
        state=entry.state,
        why=entry.why,
        by=entry.by,
        by_id=episode.by_id,
        asserted_at=told.asserted_at.isoformat(),
        subject=told.subject,
        prompt=told.prompt,
        target_new=told.target_new,
        source=told.source,
        reason=told.reason,
        file=entry.file,
        evidence=dict(entry.mark.evidence) if entry.mark else None,
    )


def _waiting(found: Intake, name: str, correction_id: str) -> Iterator[Waiting]:
    for arrival in found.of(name).arrivals():
        told = arrival.correction
        if told.correction_id == correction_id:
            yield Waiting(
                model=name,
                action=told.action,
                asserted_at=told.asserted_at.isoformat(),
                subject=told.subject,
                prompt=told.prompt,
                target_new=told.target_new,
                source=told.source,
                reason=told.reason,
                file=arrival.file,
            )
