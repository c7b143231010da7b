"""Work under an orchestrator whose API may be away: what the work did counts, not what the API says of it."""

from __future__ import annotations

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

from prefect.settings import get_current_settings

T = TypeVar("T")
log = logging.getLogger("corrigenda.night")
PATIENCE_S = 90.0


class Body(Generic[T]):
    """A piece of work that remembers what came of its last call."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.results: list[T] = []
        self.fault: Exception | None = None

    def __call__(self) -> T:
        self.results, self.fault = [], None
        try:
            self.results.append(self.work())
        except Exception as fault:
            self.fault = fault
            raise
        return self.results[0]

    @property
    def was_called(self) -> bool:
        return bool(self.results) or self.fault is not None


def despite_outages(
    what: str, orchestrated: Callable[[], object], body: Body[T], patience: Callable[[], bool] = lambda: False
) -> T:
    """The result of the body: called by `orchestrated` if the orchestrator can, else without its leave.

    patience   whether the orchestrator is worth another try; asked before the body is called without it

    Raises what the body raises. The orchestrator's own errors are logged and end nothing.
    """
    try:
        orchestrated()
    except Exception as fault:
        if body.fault is not None:
            raise body.fault from None
        log.warning("%s: the orchestrator failed: %s: %s", what, type(fault).__name__, fault)
        if not body.was_called and patience():
            return despite_outages(what, orchestrated, body)
    return body.results[0] if body.was_called else body()


class Handover(Generic[T]):
    """Gives a flow the body that its caller watches: its own parameters are for people to see."""

    def __init__(self, name: str) -> None:
        self._body: ContextVar[Body[T] | None] = ContextVar(name, default=None)

    @contextmanager
    def __call__(self, body: Body[T]) -> Iterator[None]:
        token = self._body.set(body)
        try:
            yield
        finally:
            self._body.reset(token)

    def body(self, otherwise: Callable[[], T]) -> Body[T]:
        """What was handed over; in a process that a worker started, `otherwise`."""
        return self._body.get() or Body(otherwise)


class Forbearance:
    """How long a run waits for an API that is away, over all its models: then it goes on without."""

    def __init__(self, seconds: float = PATIENCE_S) -> None:
        self.left = seconds

    def __call__(self) -> bool:
        """Wait until the API answers; False when it does not before patience has run out."""
        began = time.monotonic()
        while not (back := answers()) and time.monotonic() - began < self.left:
            time.sleep(1.0)
        self.left -= time.monotonic() - began
        return back


def answers() -> bool:
    """Whether the API can be reached now. An embedded server that Prefect starts itself always can."""
    url = get_current_settings().api.url
    if url is None:
        return True
    try:
        urllib.request.urlopen(f"{str(url).rstrip('/')}/health", timeout=3).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
