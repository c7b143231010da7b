"""Taking corrections in: the queue is read once for the whole fleet, each model's ledger is merged."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from corrigenda.errors import CorruptBlobError, NotFoundError
from corrigenda.pipeline.night import Night, OpenFleet
from corrigenda.storage.corrections import intake, ledger
from corrigenda.storage.corrections.intake import Intake
from corrigenda.storage.corrections.ledger import Ledger, Merged
from corrigenda.storage.releases import refs, snapshots
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.refs import Seen


@dataclass(frozen=True, slots=True)
class NightPlan:
    """What a night is to publish: the ledger with what is new, and what it stands on.

    head       the release that `latest` pointed to when the night began
    seen       `latest` as it was then; the night's one compare-and-swap stands on it
    consumed   queue files in the ledger once the night is published
    """

    head: Release
    seen: Seen
    ledger: Ledger
    consumed: frozenset[str]
    report: Merged
    new_files: int


def read_queue(fleet: OpenFleet, models: Sequence[str], *, dry_run: bool = False) -> Intake:
    """Look for what is new for the models; rejects go on record unless this is a dry run.

    A model whose ref or books are damaged takes nothing in; its own night says why.
    """
    consumed = {}
    for name in models:
        with suppress(CorruptBlobError, NotFoundError):
            consumed[name] = snapshots.head(fleet.store, name).consumed
    found = intake.look(fleet.queue, fleet.store, fleet.config, consumed)
    if not dry_run:
        intake.record(fleet.queue, fleet.store, found)
    return found


def take_in(night: Night) -> NightPlan:
    """Merge what is new for the model into the ledger of its current release."""
    return plan_of(night)


def plan_of(night: Night) -> NightPlan:
    """The plan of a registered model. Raises NotFoundError when it is not registered."""
    refs.require(night.store, night.name, "latest")
    now = snapshots.current(night.store, night.name, night.keys)
    assert now.release is not None
    new = night.intake.of(night.name).without(now.consumed)
    merged, report = ledger.merge(now.ledger, new.arrivals())
    return NightPlan(now.release, now.seen, merged, now.consumed | new.files, report, len(new.files))


def told(plan: NightPlan) -> dict[str, Any]:
    """A plan in figures, JSON-able."""
    return {
        "files": plan.new_files,
        "new": plan.report.new,
        "repeats": plan.report.repeats,
        "activated": len(plan.report.activated),
        "deactivated": len(plan.report.deactivated),
        "contradictions": [item._asdict() for item in plan.report.contradictions],
        "unknown_retracts": list(plan.report.unknown_retracts),
        "revived": list(plan.report.revived),
        "other_facts": list(plan.report.other_facts),
        "counts": dict(plan.ledger.counts),
    }
