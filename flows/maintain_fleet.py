"""The nightly run: read the queue once, then bring every model up to date; one failure is one failure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from corrigenda.config import Layout
from corrigenda.errors import PartialFleetError
from corrigenda.flows import shown
from corrigenda.flows.elsewhere import engine
from corrigenda.flows.maintain_model import as_subflow
from corrigenda.pipeline.diary import Outcome
from corrigenda.pipeline.elsewhere import unless_quiet
from corrigenda.pipeline.night import open_fleet
from corrigenda.pipeline.order import maintain_model, run_fleet
from corrigenda.tasks.despite import Body, Handover, despite_outages
from corrigenda.tasks.stages import as_task

_HANDED: Handover[Outcome] = Handover("corrigenda_fleet")


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
    outcome = _HANDED.body(lambda: corrected(config, models, dry_run, layouts or []))()
    if outcome["exit_code"]:
        raise PartialFleetError(
            "not every model was brought up to date",
            remedy="Mend what each says; the next run goes on from there",
            failed={row["model"]: row["error"] for row in outcome["models"] if row["status"] == "failed"},
            outcome=outcome,
        )
    return outcome


def correct(config: str, models: list[str] | None, dry_run: bool, layouts: list[Layout]) -> Outcome:
    """The flow, from a command: its outcome, whatever becomes of models and of the orchestrator."""
    body = Body(lambda: corrected(config, models, dry_run, layouts))

    def orchestrated() -> None:
        with _HANDED(body):
            maintain_fleet(config, models, dry_run, layouts, return_state=True)

    return despite_outages("the fleet's run", orchestrated, body)


def corrected(config: str, models: list[str] | None, dry_run: bool, layouts: list[Layout]) -> Outcome:
    """The fleet's night as `[scale]` says; each model that has news gets a flow run of its own."""
    fleet = open_fleet(Path(config), layouts)
    scale = fleet.config.scale
    with engine(scale, lambda night: maintain_model(night, as_task)) as work:
        shown_apart = work if scale.engine == "work-pool" else as_subflow(config, work)
        # A flow run costs a second: a night without news is a row of the fleet's table, and no more.
        maintain = unless_quiet(maintain_model, shown_apart)
        outcome = run_fleet(
            fleet, models, dry_run=dry_run, run=as_task, maintain=maintain, at_once=scale.threads
        )
    shown.fleet(outcome)
    return outcome
