"""Rows as a reader found them in a file, before anything is known of their shape: fields by name.

Every row of the file is in `records` or in `rejects`; `numbers` says where each record stood.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from corrigenda.storage.corrections.reasons import REMEDIES
from corrigenda.storage.corrections.verdicts import SHOWN

Record = Mapping[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Records:
    """What a reader made of a file.

    records   fields by name
    numbers   per record, its row number in the file, counted from 0
    rejects   rows that are no records, as `understand` reports them
    notes     what a person should know of how the file was read
    columns   names in the order of the file's header; empty where each record has its own
    """

    records: tuple[Record, ...]
    numbers: tuple[int, ...]
    rejects: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


def numbered(records: Iterable[Record], *, notes: tuple[str, ...] = ()) -> Records:
    """Records none of which was refused."""
    every = tuple(records)
    return Records(every, tuple(range(len(every))), notes=notes)


def refused(
    row: int, reason: str, column: str, value: object, record: Record | None = None, *, more: str = ""
) -> Row:
    """The reject of one row; `more` is what the remedy says of this one row."""
    record = record or {}
    return {
        "row": row,
        "correction_id": _shown(record.get("correction_id")),
        "model": _shown(record.get("model")),
        "reason": reason,
        "column": column,
        "value": _shown(value),
        "remedy": REMEDIES[reason] + more,
    }


def _shown(value: object) -> str | None:
    return None if value is None else str(value)[:SHOWN].encode(errors="replace").decode()
