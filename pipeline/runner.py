"""How the stages of a night are run: the order is given one of these, and hands it every stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Runner(Protocol):
    """Runs a stage with its arguments and gives what the stage gives; what it raises goes through.

    A runner may try again where the error says that this can help. It never changes arguments or results.
    """

    def __call__(self, stage: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


def plainly(stage: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The stage, called: no orchestrator, no server."""
    return stage(*args, **kwargs)
