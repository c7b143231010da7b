"""Progress bars on long work: on stderr, and only where somebody is looking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from corrigenda import terminal

Watch = Callable[[str, int, int], None]
_WATCH: ContextVar[Watch | None] = ContextVar("corrigenda_watch", default=None)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Have `watch` told of all bars within the block: what, how many steps are done, and of how many."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of `total` steps; yields the function that advances it. Silent without a terminal."""
    shown = terminal.watched() and total > 0
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(terminal.neutral(what), total=total)
        watch, done = _WATCH.get(), 0

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            progress.update(task, advance=steps)
            if watch and total > 0:
                watch(what, done, total)

        yield advance


def tell(text: str) -> None:
    """One line on stderr about a stage that is done."""
    terminal.console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)
