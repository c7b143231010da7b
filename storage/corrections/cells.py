"""Lists in the cells of a table: a table has one text a cell, and a list is written there as JSON.

A text that only looks like several (`A; B`) stays one text, and its writer is asked. Knows nothing of shapes.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import Any

from corrigenda.storage.corrections.fields import NEIGHBOURS, OLD_ANSWERS, PARAPHRASES
from corrigenda.storage.corrections.records import Records
from corrigenda.storage.corrections.schemas import LISTS

LIST_CELLS = frozenset(
    (*LISTS, "neighborhood_prompts", "portability", *PARAPHRASES, *NEIGHBOURS, *OLD_ANSWERS)
)
MOST_ASKED = 3  # rows that a question names


def listed(text: str) -> Any:
    """What a cell holds: the list or object that its JSON says, or else the text itself.

    Python's form of a list, as data frames write it into CSV, is taken as well. Raises ValueError for what
    begins as a list of texts or objects and is broken.
    """
    inner = text.strip()
    if inner[:1] + inner[-1:] not in ("[]", "{}"):
        if inner.startswith(('["', "[{", '{"')):
            raise ValueError("a JSON list that is not closed")
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(inner)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return found if _is_texts(found) else text
    if inner.startswith(('["', "['", "[{", '{"', "{'")):
        raise ValueError("broken JSON")
    return text


def _is_texts(found: Any) -> bool:
    """Lists and objects down to texts: `[2024]` or `{1}` is a text that somebody wrote in brackets."""
    if isinstance(found, dict):
        return all(isinstance(name, str) for name in found)
    return isinstance(found, list) and all(isinstance(one, str) or _is_texts(one) for one in found)


def questions(table: Records) -> Iterator[str]:
    """Asks of cells that may be meant as several texts and are taken as one."""
    asked: dict[str, list[int]] = {}
    for record, number in zip(table.records, table.numbers, strict=True):
        for name in LIST_CELLS & record.keys():
            if isinstance(record[name], str) and any(
                sign in record[name] for sign in ("; ", " | ", "|", ";")
            ):
                asked.setdefault(name, []).append(number)
    for name, rows in sorted(asked.items()):
        shown = ", ".join(map(str, rows[:MOST_ASKED])) + (", …" if len(rows) > MOST_ASKED else "")
        yield f'is {name} one text in row {shown}? several are written as JSON: ["A", "B"]'
