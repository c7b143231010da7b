"""Progress bars on long work: on stderr, and only where somebody is looking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from corrigenda import terminal


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of `total` steps; yields the function that advances it. Silent without a terminal."""
    shown = terminal.watched() and total > 0
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal.console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(terminal.neutral(what), total=total)
        yield lambda steps: progress.update(task, advance=steps)


def tell(text: str) -> None:
    """One line on stderr about a stage that is done."""
    terminal.console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)
