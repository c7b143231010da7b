"""The order of a night: what is new goes into the ledger, the base is edited once, proved, and published.

Written once, for every runner. A night without news imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from corrigenda.errors import CorrigendaError, SetupError
from corrigenda.pipeline.ingest import Plan, plan_of, read_queue, take_in, told
from corrigenda.pipeline.night import Night, OpenFleet
from corrigenda.pipeline.publish import asked_for, furnish_head, publish_release, stage_books
from corrigenda.pipeline.register import register
from corrigenda.pipeline.runner import Runner, plainly
from corrigenda.storage.corrections.intake import Intake
from corrigenda.storage.releases.manifests import Release

Outcome = dict[str, Any]


def run_fleet(
    fleet: OpenFleet,
    models: Sequence[str] | None = None,
    *,
    dry_run: bool = False,
    run: Runner = plainly,
    maintain: Callable[[Night], Outcome] | None = None,
) -> Outcome:
    """Correct the fleet; returns what happened, JSON-able: `models`, `queue`, and `exit_code`.

    models     names of the models to run; default: all of the fleet
    dry_run    say what would be taken in, and change nothing
    maintain   one model's night; default: `maintain_model` under the same runner

    Raises NotFoundError for a model that is not in the fleet. What fails for one model is that model's
    outcome, and never stops the others.
    """
    one = maintain or (lambda night: maintain_model(night, run))
    names = [fleet.config.model(name).name for name in models or [m.name for m in fleet.config.models]]
    found = run(read_queue, fleet, names, dry_run=dry_run)
    nights = (Night(fleet, name, found) for name in names)
    return summary(fleet, found, [preview(night) if dry_run else attempt(night, one) for night in nights])


def maintain_model(night: Night, run: Runner = plainly) -> Outcome:
    """Bring one model up to date with its queue; returns what happened, JSON-able.

    Raises GateError when no candidate passes, LostRaceError when another run was first: either way nothing
    is published, and no queue file is consumed.
    """
    with night.lease():
        base = run(register, night)
        plan = run(take_in, night)
        if needs_edit(night, plan):
            return renew(night, base, plan, run)
        if not plan.new_files:
            return outcome(night, plan, "unchanged", run(furnish_head, night, plan))
        books = run(stage_books, night, base, plan)
        return outcome(night, plan, "published", run(publish_release, night, plan, books))


def renew(night: Night, base: Release, plan: Plan, run: Runner) -> Outcome:
    """A new release of the model, from the pristine base."""
    try:
        from corrigenda.pipeline import renewal  # torch and transformers come with it
    except ImportError as fault:
        raise SetupError(
            "the pipeline is not installed here",
            remedy="Run `pip install 'corrigenda[pipeline]'`",
            missing=fault.name,
        ) from None
    made = renewal.prepare(night, base, plan, run)
    release = run(publish_release, night, plan, made.release)
    return outcome(night, plan, "published", release) | {
        "edits": made.edits,
        "layers": made.layers.to_json(),
        "regressions": made.regressions,
    }


def needs_edit(night: Night, plan: Plan) -> bool:
    """Whether the weights can differ from the head's: another active set, or other settings for it."""
    resettled = plan.head.layer is not None and plan.head.settings.get("asked") != asked_for(night)
    return plan.report.changed or (resettled and bool(plan.ledger.active))


def attempt(night: Night, maintain: Callable[[Night], Outcome]) -> Outcome:
    """One model's night; an error becomes its outcome."""
    try:
        return maintain(night)
    except CorrigendaError as fault:
        return failure(night, str(fault), fault.exit_code)
    except Exception as fault:
        return failure(night, f"{type(fault).__name__}: {fault}", 1)


def failure(night: Night, error: str, exit_code: int) -> Outcome:
    return {"model": night.name, "status": "failed", "error": error, "exit_code": exit_code}


def outcome(night: Night, plan: Plan, status: str, release: Release) -> Outcome:
    """What happened to the model, JSON-able."""
    return {
        "model": night.name,
        "status": status,
        "release": release.number,
        "layer": release.layer,
        "gates": dict(release.gates),
        "taken_in": told(plan),
        "counts": dict(release.counts),
    }


def preview(night: Night) -> Outcome:
    """What a run would take in."""
    try:
        return {"model": night.name, "status": "dry run", "taken_in": told(plan_of(night))}
    except CorrigendaError:
        new = night.intake.of(night.name)
        taken = {"files": len(new.files), "new": new.rows.num_rows}
        return {"model": night.name, "status": "dry run, not registered yet", "taken_in": taken}


def summary(fleet: OpenFleet, found: Intake, outcomes: list[Outcome]) -> Outcome:
    """The run in figures. One failed model gives its own exit code, some of several give 6."""
    failed = [outcome for outcome in outcomes if outcome["status"] == "failed"]
    alone = len(outcomes) == 1
    code = 0 if not failed else int(failed[0]["exit_code"]) if alone else 6
    return {
        "run_id": fleet.run_id,
        "exit_code": code,
        "models": outcomes,
        "queue": {
            "rejected": found.rejected,
            "known_files": found.skipped,
            "problems": [
                {"file": p.file, "reason": p.reason, "detail": p.detail, "remedy": p.remedy}
                for p in found.problems
            ],
        },
    }
