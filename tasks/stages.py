"""Which stage is tried again and when. Meaning lies in the functions of `pipeline`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE

from corrigenda.errors import CorrigendaError
from corrigenda.tasks.despite import Body, despite_outages

P = ParamSpec("P")
T = TypeVar("T")


def only_retryable(_task: Any, _run: Any, state: Any) -> bool:
    """Ask the error, not its name, whether another try can help."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, CorrigendaError) and error.retryable


# Our own caches are keyed by digests and outlive the orchestrator; Prefect's would hash gigabytes.
PLAIN: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False}
RETRIED: dict[str, Any] = PLAIN | {
    "retries": 3,
    "retry_delay_seconds": [2, 10, 60],
    "retry_condition_fn": only_retryable,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "read_queue": RETRIED,
    "register": RETRIED,
    "take_in": RETRIED,
    "load_base": RETRIED,
    "localize_model": RETRIED | {"name": "localize"},
    "own_probes": PLAIN,
    "measure_background": PLAIN,
    "edit": PLAIN,
    "validate": PLAIN,
    "quarantine": PLAIN,
    "stage": RETRIED,
    "stage_books": RETRIED,
    "record": RETRIED,
    "regressions": RETRIED,
    "publish_release": RETRIED,
    "furnish_head": RETRIED,
}


def as_task(stage: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The runner of the flows: a stage as a task run of its own. Without a row in `OPTIONS`, a KeyError.

    Arguments do not pass through the orchestrator, which would look into every tensor for futures.
    """
    body = Body(lambda: stage(*args, **kwargs))

    @task(**{"name": stage.__name__} | OPTIONS[stage.__name__])
    def run() -> None:
        body()

    return despite_outages(stage.__name__, run, body)
