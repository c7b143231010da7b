"""The order of a night: what is new goes into the ledger, the base is edited once, proved, and published.

Written once, for every runner. A night without news imports nothing heavy.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from corrigenda.errors import BusyError, CorrigendaError, GateError, HeldError, SetupError
from corrigenda.pipeline import diary
from corrigenda.pipeline.clock import Clock
from corrigenda.pipeline.diary import Outcome
from corrigenda.pipeline.ingest import NightPlan, plan_of, read_queue, take_in, told
from corrigenda.pipeline.night import Night, OpenFleet
from corrigenda.pipeline.publish import asked_for, furnish_head, publish_release, stage_books
from corrigenda.pipeline.register import register
from corrigenda.pipeline.runner import Runner, plainly
from corrigenda.storage.corrections.intake import Intake
from corrigenda.storage.releases import hold
from corrigenda.storage.releases.manifests import Release

log = logging.getLogger("corrigenda.night")


def run_fleet(
    fleet: OpenFleet,
    models: Sequence[str] | None = None,
    *,
    dry_run: bool = False,
    run: Runner = plainly,
    maintain: Callable[[Night], Outcome] | None = None,
    at_once: int = 1,
) -> Outcome:
    """Correct the fleet; returns what happened, JSON-able: `models`, `queue`, and `exit_code`.

    models     names of the models to run; default: all of the fleet
    dry_run    say what would be taken in, and change nothing
    maintain   one model's night; default: `maintain_model` under the same runner
    at_once    how many models are under way; more than one is for a `maintain` that works elsewhere

    Raises NotFoundError for a model that is not in the fleet. What fails for one model is that model's
    outcome, and never stops the others.
    """
    one = maintain or (lambda night: maintain_model(night, run))
    names = [fleet.config.model(name).name for name in models or [m.name for m in fleet.config.models]]
    found = run(read_queue, fleet, names, dry_run=dry_run)
    nights = [Night(fleet, name, found) for name in names]
    if dry_run:
        return summary(fleet, found, [preview(night) for night in nights])
    if at_once == 1:
        return summary(fleet, found, [attempt(night, one) for night in nights])
    with ThreadPoolExecutor(at_once) as threads:
        # In the run's own context: an orchestrator's client and logger are found there.
        going = [threads.submit(contextvars.copy_context().run, attempt, night, one) for night in nights]
    return summary(fleet, found, [night.result() for night in going])


def maintain_model(night: Night, run: Runner = plainly) -> Outcome:
    """Bring one model up to date with its queue; returns what happened, JSON-able.

    Raises GateError when no candidate passes, BusyError when another run is at work on the model, HeldError
    while it is held, LostRaceError when another was first: then nothing is published, and no queue file is
    consumed.
    """
    run = night.clock.timed(run)
    with night.lease():
        hold.require_none(night.store, night.name)
        base = run(register, night)
        plan = run(take_in, night)
        if needs_edit(night, plan):
            return renew(night, base, plan, run)
        if not plan.new_files:
            return outcome(night, plan, "unchanged", run(furnish_head, night, plan))
        books = run(stage_books, night, base, plan)
        return outcome(night, plan, "published", run(publish_release, night, plan, books))


def renew(night: Night, base: Release, plan: NightPlan, run: Runner) -> Outcome:
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
        "samples": made.samples,
        "quarantined": made.quarantined,
    }


def needs_edit(night: Night, plan: NightPlan) -> bool:
    """Whether the weights can differ from the head's: another active set, or other settings for it."""
    resettled = plan.head.layer is not None and plan.head.settings.get("asked") != asked_for(night.settings)
    return plan.report.changed or (resettled and bool(plan.ledger.active))


def is_quiet(night: Night) -> bool:
    """Whether nothing is to be edited tonight, as far as can be seen without the lease."""
    try:
        return not needs_edit(night, plan_of(night))
    except CorrigendaError:
        return False  # not registered yet, or damaged: the night itself says so


def attempt(night: Night, maintain: Callable[[Night], Outcome]) -> Outcome:
    """One model's night, put on record; an error becomes its outcome."""
    night.clock = Clock()
    came = outcome_of(night, maintain)
    log.log(logging.ERROR if came["status"] == "failed" else logging.INFO, "%s", in_a_line(came))
    try:
        return diary.write(night.store, night.fleet.run_id, came, night.clock)
    except CorrigendaError as fault:
        log.error("model=%s this night is not on record: %s", night.name, fault)
        return came


def outcome_of(night: Night, maintain: Callable[[Night], Outcome]) -> Outcome:
    """What came of a model's night, errors included."""
    try:
        return maintain(night)
    except BusyError as fault:  # another run does what this one was about to do
        return {"model": night.name, "status": "busy", "by": fault.facts.get("owner")}
    except HeldError as fault:
        found = {"release": fault.facts.get("release"), "held": fault.facts.get("why")}
        return {"model": night.name, "status": "held"} | found
    except CorrigendaError as fault:
        short = {"gates_short": fault.facts} if isinstance(fault, GateError) else {}
        return failure(night, str(fault), fault.exit_code) | short
    except Exception as fault:
        log.exception("model=%s an error that nobody foresaw", night.name)
        return failure(night, f"{type(fault).__name__}: {fault}", 1)


def failure(night: Night, error: str, exit_code: int) -> Outcome:
    return {"model": night.name, "status": "failed", "error": error, "exit_code": exit_code}


def in_a_line(came: Outcome) -> str:
    """An outcome as `name=value` pairs, for logs."""
    counts = came.get("counts", {})
    shown = {name: came.get(name) for name in ("model", "release", "status", "by", "exit_code", "error")}
    shown |= {"new": came.get("taken_in", {}).get("new")}
    shown |= {name: counts.get(name) for name in ("active", "quarantined")}
    return " ".join(f"{name}={value}" for name, value in shown.items() if value is not None)


def outcome(night: Night, plan: NightPlan, status: str, release: Release) -> Outcome:
    """What happened to the model, JSON-able."""
    return {
        "model": night.name,
        "status": status,
        "release": release.number,
        "layer": release.layer,
        "gates": dict(release.gates),
        "taken_in": told(plan),
        "counts": dict(release.counts),
        "bytes": sum(ref.size for path, ref in release.files.items() if plan.head.files.get(path) != ref),
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
