"""What a person sees of a night in Prefect: names, summaries, progress, and events that automations hear.

All of it is for show. What cannot be shown is logged, and never fails or delays a night.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.utilities.slugify import slugify

from corrigenda.flows import summary
from corrigenda.pipeline.diary import Outcome
from corrigenda.pipeline.progress import watched
from corrigenda.tasks.despite import answers

log = logging.getLogger("corrigenda.night")
EVERY_S = 10.0


def model(came: Outcome) -> None:
    """A model's summary, its name in the list of runs, and what happened as events."""
    name = came["model"]
    _try(
        name, lambda: create_markdown_artifact(summary.of_model(came), f"model-{slugify(name)}", title(came))
    )
    _try(name, lambda: _rename(f"{name}: {title(came)}"))
    for event, payload in events(came):
        _try(name, lambda event=event, payload=payload: _emit(name, event, payload))  # type: ignore[misc]


def fleet(outcome: Outcome) -> None:
    """The fleet's table, and the run's name."""
    rows = [summary.row(came) for came in outcome["models"]]
    counted = ", ".join(f"{n} {status}" for status, n in summary.counted(outcome["models"]).items())
    _try("fleet", lambda: create_table_artifact(rows, "fleet", counted))
    _try("fleet", lambda: _rename(f"{outcome['run_id'][:15]}: {counted}"))


def title(came: Outcome) -> str:
    """What happened, in a few words."""
    stands = f"release {came['release']}" if came.get("release") is not None else ""
    said = {"failed": came.get("error"), "busy": f"busy, done by {came.get('by')}"}.get(came["status"])
    return str(said or f"{came['status']}, {stands}".strip(", "))[:200]


def events(came: Outcome) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and payloads of the events that a night is worth."""
    if came["status"] == "published":
        yield "corrigenda.release.published", {"release": came["release"], "counts": came.get("counts")}
    for one in came.get("quarantined", ()):
        yield "corrigenda.correction.quarantined", one
    if came["status"] == "failed":
        if "gates_short" in came:
            yield "corrigenda.gate.failed", {"gates": came["gates_short"]}
        yield "corrigenda.model.failed", {"error": came["error"], "exit_code": came["exit_code"]}


@contextmanager
def progress(name: str) -> Iterator[None]:
    """Progress of what takes longer, as an artifact of the run that is going on."""
    shown: dict[str, UUID] = {}
    last: dict[str, float] = {}

    def watch(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - last.setdefault(what, now) < EVERY_S:
            return
        last[what] = now
        share = 100.0 * done / total
        if what in shown:
            _try(name, lambda: update_progress_artifact(shown[what], share))
        else:
            _try(name, lambda: shown.update({what: _begun(share, what)}))

    with watched(watch):
        yield


def _begun(share: float, what: str) -> UUID:
    made = create_progress_artifact(share, description=what)
    assert isinstance(made, UUID)  # not a coroutine: no loop is running here
    return made


def _emit(name: str, event: str, payload: dict[str, Any]) -> None:
    resource = {"prefect.resource.id": f"corrigenda.model.{name}", "prefect.resource.name": name}
    emit_event(event, resource, payload=payload)


def _rename(name: str) -> None:
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(str(flow_run.id)), name=name)


def _try(what: str, show: Callable[[], object]) -> None:
    if not flow_run.id:
        return
    try:
        if answers():
            show()
        else:
            log.warning("model=%s not shown in Prefect, whose API is away", what)
    except Exception as fault:
        log.warning("model=%s not shown in Prefect: %s: %s", what, type(fault).__name__, fault)
