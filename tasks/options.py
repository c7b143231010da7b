"""What all tasks share: when to try again, and that results stay in memory."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE

from corrigenda.errors import CorrigendaError


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
