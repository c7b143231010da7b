"""Taking corrections in: the queue is read once for the whole fleet, each model's ledger is merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from prefect import task

from corrigenda.storage import blobs, intake, ledger, manifests, refs
from corrigenda.storage.intake import Intake
from corrigenda.storage.ledger import Ledger, Report
from corrigenda.storage.manifests import Release
from corrigenda.storage.objects import ObjectStore
from corrigenda.storage.refs import Seen
from corrigenda.tasks.night import Night, OpenFleet
from corrigenda.tasks.options import RETRIED


@dataclass(frozen=True, slots=True)
class Plan:
    """What a night is to publish: the ledger with what is new, and what it stands on.

    head       the release that `latest` pointed to when the night began
    seen       `latest` as it was then; the night's one compare-and-swap stands on it
    consumed   queue files in the ledger once the night is published
    """

    head: Release
    seen: Seen
    ledger: Ledger
    consumed: frozenset[str]
    report: Report
    new_files: int

    def with_ledger(self, changed: Ledger) -> Plan:
        return replace(self, ledger=changed)


@task(**RETRIED)
def read_queue(fleet: OpenFleet, models: Sequence[str], *, dry_run: bool = False) -> Intake:
    """Look for what is new for the models; rejects go on record unless this is a dry run."""
    consumed = {name: consumed_files(fleet.store, head_of(fleet.store, name)) for name in models}
    found = intake.look(fleet.queue, fleet.store, fleet.config, consumed)
    if not dry_run:
        intake.record(fleet.queue, fleet.store, found)
    return found


@task(**RETRIED)
def take_in(night: Night) -> Plan:
    """Merge what is new for the model into the ledger of its current release."""
    return plan_of(night)


def plan_of(night: Night) -> Plan:
    """The plan of a registered model. Raises NotFoundError when it is not registered."""
    seen = refs.read(night.store, night.name, "latest")
    head = manifests.by_digest(night.store, refs.require(night.store, night.name, "latest").manifest)
    new = night.intake.of(night.name)
    merged, report = ledger.merge(ledger_of(night.store, head), new.arrivals())
    consumed = consumed_files(night.store, head) | new.files
    return Plan(head, seen, merged, consumed, report, len(new.files))


def head_of(store: ObjectStore, model: str) -> Release | None:
    """The release that `latest` points to; None when the model is not registered."""
    seen = refs.read(store, model, "latest")
    return manifests.by_digest(store, seen.ref.manifest) if seen.ref else None


def ledger_of(store: ObjectStore, release: Release | None) -> Ledger:
    """The ledger snapshot of a release; the base has an empty one."""
    if release is None or release.ledger is None:
        return ledger.empty()
    return ledger.from_parquet(blobs.get(store, release.ledger.digest))


def consumed_files(store: ObjectStore, release: Release | None) -> frozenset[str]:
    """Digests of the queue files whose rows are in a release's ledger."""
    if release is None or release.consumed is None:
        return frozenset()
    return ledger.consumed_from_parquet(blobs.get(store, release.consumed.digest))


def told(plan: Plan) -> dict[str, Any]:
    """A plan in figures, JSON-able."""
    return {
        "files": plan.new_files,
        "new": plan.report.new,
        "repeats": plan.report.repeats,
        "activated": len(plan.report.activated),
        "deactivated": len(plan.report.deactivated),
        "contradictions": [item._asdict() for item in plan.report.contradictions],
        "unknown_retracts": list(plan.report.unknown_retracts),
        "counts": dict(plan.ledger.counts),
    }
