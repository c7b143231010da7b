"""Where the time of a night goes: seconds by stage, for its record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ParamSpec, TypeVar

from corrigenda.pipeline.runner import Runner

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Clock:
    """When a night began and how many seconds each of its stages has taken, repeats added up."""

    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, run: Runner) -> Runner:
        """The same runner, with an eye on the clock."""

        def watched(stage: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
            started = time.monotonic()
            try:
                return run(stage, *args, **kwargs)
            finally:
                spent = time.monotonic() - started
                self.seconds[stage.__name__] = self.seconds.get(stage.__name__, 0.0) + spent

        return watched
