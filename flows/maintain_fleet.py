"""The nightly run: read the queue once, then bring every model up to date; one failure is one failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from corrigenda.config import Layout
from corrigenda.errors import CorrigendaError, PartialFleetError
from corrigenda.flows.maintain_model import maintain_model
from corrigenda.storage.intake import Intake
from corrigenda.tasks.ingest import plan_of, read_queue, told
from corrigenda.tasks.night import Night, OpenFleet, open_fleet


@flow(name="maintain-fleet", flow_run_name="maintain-fleet", persist_result=False)
def maintain_fleet(
    config: str = "fleet.toml",
    models: list[str] | None = None,
    dry_run: bool = False,
    layouts: list[Layout] | None = None,
) -> dict[str, Any]:
    """Correct the fleet; returns what happened, JSON-able: `models`, `queue`, and `exit_code`.

    config    the fleet's configuration file
    models    names of the models to run; default: all of the fleet
    dry_run   say what would be taken in, and change nothing
    layouts   how releases are laid out in the store, besides what the configuration says

    Raises PartialFleetError, with the same as its fact `outcome`, when a model failed: the orchestrator
    then shows the run as failed.
    """
    fleet = open_fleet(Path(config), layouts or ())
    names = [fleet.config.model(name).name for name in models or [m.name for m in fleet.config.models]]
    found = read_queue(fleet, names, dry_run=dry_run)
    run = preview if dry_run else attempt
    outcome = summary(fleet, found, [run(Night(fleet, name, found)) for name in names])
    if outcome["exit_code"]:
        raise PartialFleetError(
            "not every model was brought up to date",
            remedy="Mend what each says; the next run goes on from there",
            failed={row["model"]: row["error"] for row in outcome["models"] if row["status"] == "failed"},
            outcome=outcome,
        )
    return outcome


def attempt(night: Night) -> dict[str, Any]:
    """One model's flow; an error becomes its outcome, so that it never stops the others."""
    state = maintain_model(night, return_state=True)
    if not state.is_failed() and not state.is_crashed():
        result: dict[str, Any] = state.result()
        return result
    fault = state.result(raise_on_failure=False)
    expected = isinstance(fault, CorrigendaError)
    return {
        "model": night.name,
        "status": "failed",
        "error": str(fault) if expected else f"{type(fault).__name__}: {fault}",
        "exit_code": fault.exit_code if isinstance(fault, CorrigendaError) else 1,
    }


def preview(night: Night) -> dict[str, Any]:
    """What a run would take in."""
    try:
        return {"model": night.name, "status": "dry run", "taken_in": told(plan_of(night))}
    except CorrigendaError:
        new = night.intake.of(night.name)
        taken = {"files": len(new.files), "new": new.rows.num_rows}
        return {"model": night.name, "status": "dry run, not registered yet", "taken_in": taken}


def summary(fleet: OpenFleet, found: Intake, outcomes: list[dict[str, Any]]) -> dict[str, Any]:
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
