"""Which stage is tried again and when. Meaning lies in the functions of `pipeline`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE

from corrigenda.errors import CorrigendaError

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
    """The runner of the flows: a stage as a task run of its own."""
    done: T = task_of(stage)(*args, **kwargs)
    return done


@cache
def task_of(stage: Callable[..., Any]) -> Callable[..., Any]:
    """The task that wraps a stage. A stage without a row in `OPTIONS` is a KeyError."""
    return task(**OPTIONS[stage.__name__])(stage)
