"""One model's night under the orchestrator: the order of `pipeline`, each stage a task."""

from __future__ import annotations

from collections.abc import Callable

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from corrigenda.config import Layout
from corrigenda.flows import shown
from corrigenda.pipeline import order
from corrigenda.pipeline.diary import Outcome
from corrigenda.pipeline.elsewhere import alone
from corrigenda.pipeline.night import Night
from corrigenda.tasks.despite import Body, Forbearance, Handover, despite_outages
from corrigenda.tasks.stages import as_task

_HANDED: Handover[Outcome] = Handover("corrigenda_model")


@flow(name="maintain-model", flow_run_name="{model}", persist_result=False)
def maintain_model(
    config: str, model: str, run_id: str | None = None, layouts: list[Layout] | None = None
) -> State[None]:
    """Bring one model up to date with its queue; see `corrigenda.pipeline.order.maintain_model`.

    run_id   of the fleet's run that this is a part of; default: a run of its own

    What happened is in the store, as that run's record of the model: nothing of it passes through the API.
    """
    body = _HANDED.body(lambda: alone(config, model, run_id, layouts or (), as_task))
    with shown.progress(model):
        came = body()
    shown.model(came)
    return (
        Failed(message=came["error"]) if came["status"] == "failed" else Completed(message=shown.title(came))
    )


def as_subflow(config: str, work: Callable[[Night], Outcome]) -> Callable[[Night], Outcome]:
    """`work` for one model as a flow run of its own, within the fleet's. It never raises."""
    patience = Forbearance()

    def maintain(night: Night) -> Outcome:
        body = Body(lambda: order.outcome_of(night, work))

        def orchestrated() -> None:
            with _HANDED(body):
                layouts = sorted(night.fleet.layouts)
                maintain_model(config, night.name, night.fleet.run_id, layouts, return_state=True)

        return despite_outages(f"model={night.name}", orchestrated, body, patience)

    return maintain
