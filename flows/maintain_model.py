"""One model's night under the orchestrator: the order of `pipeline`, each stage a task."""

from __future__ import annotations

from typing import Any

from prefect import flow

from corrigenda.pipeline import order
from corrigenda.pipeline.night import Night
from corrigenda.tasks.stages import as_task


@flow(name="maintain-model", flow_run_name="{night}", validate_parameters=False, persist_result=False)
def maintain_model(night: Night) -> dict[str, Any]:
    """Bring one model up to date with its queue; see `corrigenda.pipeline.order.maintain_model`."""
    return order.maintain_model(night, as_task)
