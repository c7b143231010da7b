"""How rows are shown to a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from corrigenda import terminal

LONGEST = 60  # characters of a cell


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, stderr: bool = False) -> None:
    """One line per row; nothing in a cell is taken for markup, and what is too long is cut."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(_cell(row[column])) for column in columns))
    console = terminal.console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = 250  # rows that are broken at 80 columns are no use to `grep`
    console.print(table)


def pairs(values: Mapping[str, Any]) -> str:
    """`name value, name value`."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _cell(value: object) -> str:
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
