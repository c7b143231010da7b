"""Checks queue rows with vectorised expressions, in one pass: good rows on one side, rejects on the other.

A row has one verdict, the first fault found in the order below. Knows nothing of files in a store, of the
fleet (the caller says which selectors are known) or of the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corrigenda.storage.corrections.conform import Conformed, Mask, conform, row_of_each_entry
from corrigenda.storage.corrections.schemas import CORRECTIONS, REJECTS, TIME, longest, needed

REMEDIES: dict[str, str] = {
    "wrong_type": "Write this column with the type of the documentation's table; text must be UTF-8",
    "unknown_action": "Write `upsert` or `retract`, or leave the column out",
    "missing_value": "Fill this column in; blanks alone do not count",
    "no_slot": "Put exactly one `{}` where the subject goes",
    "many_slots": "Leave exactly one `{}` and write the rest of the prompt out",
    "too_long": "Shorten it: this is a text, not a fact (the documentation's table has the limits)",
    "subject_not_in_prompt": "Spell the subject alike in both, or put `{}` in its place",
    "unknown_shape": "Give this record the same fields as the others",
    "too_many": "Give at most 1000 entries",
    "control_character": "Remove NUL and other control characters",
    "empty_entry": "Remove the entry, or fill in its text (and the answer, for a neighbour)",
    "time_out_of_range": "Give a time between 1970 and 2200; look at the unit of the timestamp",
    "unknown_model": "Name a model of fleet.toml, a glob that matches one, or one of their tags",
    "missing_column": "Add the columns, spelt as in the documentation's table",
    "duplicate_column": "Keep each column once",
    "unreadable_file": "Write the file again, complete; it stays in the queue and is tried every time",
    "too_large": "Split it into files of fewer or shorter rows; it stays in the queue",
    "night_is_full": "Nothing: it waits for the next run, after the files before it",
    "not_parquet": "Hand it in with `corrigenda submit`, which reads CSV, JSON and JSON Lines too",
}

# REJECTS without the file, which only the caller knows.
VERDICTS = pa.schema([field for field in REJECTS if field.name not in ("file_digest", "file")])
SHOWN = 200  # characters of a bad value
MAX_ENTRIES = 1_000
FIRST, LAST = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 10**6 for year in (1970, 2200))
TRIMMED = ("correction_id", "model", "subject", "prompt", "target_new", "target_old", "question")
# Line ends and tabs are text in a prompt; an id and a selector are shown in tables, so there they are not.
CONTROL = dict.fromkeys(("correction_id", "model"), "[\x00-\x1f\x7f]") | dict.fromkeys(
    ("subject", "prompt", "target_new", "target_old", "question"), "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)


class Fault(NamedTuple):
    """Why a row is rejected: a key of REMEDIES and the column at fault."""

    reason: str
    column: str


@dataclass(frozen=True, slots=True)
class Checked:
    """Both sides of a check: CORRECTIONS and VERDICTS."""

    good: pa.Table
    rejects: pa.Table


def check(
    batch: pa.RecordBatch, *, first_row: int = 0, knows: Callable[[str], bool] | None = None
) -> Checked:
    """Part the good rows of `batch` from the bad ones.

    batch      any columns; those of CORRECTIONS are read, others are not looked at
    first_row  number of the batch's first row within its file
    knows      whether a model selector means any model; None takes every selector
    """
    rows, faults = _conformed(batch)
    verdict, found = np.zeros(len(rows), np.int16), [*faults, *_faults(rows, knows)]
    for number, (mask, _) in enumerate(found, start=1):
        verdict[mask & (verdict == 0)] = number
    parts = [VERDICTS.empty_table()]
    for number in np.unique(verdict[verdict > 0]):
        parts.append(
            _rejects(batch, rows, np.flatnonzero(verdict == number), found[number - 1][1], first_row)
        )
    good = pa.Table.from_batches([rows]).filter(pa.array(verdict == 0))
    return Checked(good, pa.concat_tables(parts).sort_by("row"))


def missing_columns(names: Sequence[str]) -> list[str]:
    """What a file must have and does not.

    Subject, prompt and target are wanted of upserts only: a file that says `action` for each row may hold
    retracts alone, so there the rows are asked one by one.
    """
    needs = ("always",) if "action" in names else ("always", "upsert")
    return [name for name in needed(CORRECTIONS, *needs) if name not in names]


def file_reject(reason: str, column: str) -> pa.Table:
    """The reject of a whole file: its `row` is null."""
    row = {"reason": reason, "column": column, "remedy": REMEDIES[reason]}
    return pa.Table.from_pylist([row], schema=VERDICTS)


def _conformed(batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[tuple[Mask, Fault]]]:
    """The batch in CORRECTIONS' types, texts trimmed, `action` filled in; and what had no place there."""
    columns, faults = [], []
    for field in CORRECTIONS:
        conformed = _column(batch, field)
        faults.append((conformed.bad, Fault("wrong_type", field.name)))
        columns.append(_tidy(field.name, conformed.values))
    nullable = pa.schema([field.with_nullable(True) for field in CORRECTIONS])
    return pa.RecordBatch.from_arrays(columns, schema=nullable), faults


def _column(batch: pa.RecordBatch, field: pa.Field) -> Conformed:
    if field.name in batch.schema.names:
        return conform(batch.column(field.name), field.type)
    return Conformed(pa.nulls(len(batch), field.type), np.zeros(len(batch), bool))


def _tidy(name: str, values: pa.Array) -> pa.Array:
    """Blanks around a text carry no meaning; an action that is left out is an upsert."""
    if name == "action":
        said = pc.utf8_lower(pc.utf8_trim_whitespace(pc.fill_null(values, "")))
        return pc.if_else(pc.equal(said, ""), "upsert", said)
    return pc.utf8_trim_whitespace(values) if name in TRIMMED else values


def _faults(rows: pa.RecordBatch, knows: Callable[[str], bool] | None) -> Iterator[tuple[Mask, Fault]]:
    upsert = _true(pc.equal(rows.column("action"), "upsert"))
    retract = _true(pc.equal(rows.column("action"), "retract"))
    yield ~(upsert | retract), Fault("unknown_action", "action")
    yield from _missing(rows, upsert)
    slots = pc.fill_null(pc.count_substring(rows.column("prompt"), "{}"), 0)
    yield upsert & _true(pc.equal(slots, 0)), Fault("no_slot", "prompt")
    yield upsert & _true(pc.greater(slots, 1)), Fault("many_slots", "prompt")
    for field in CORRECTIONS:
        if pa.types.is_list(field.type):
            yield from _entry_faults(rows.column(field.name), field)
        elif limit := longest(field):
            yield (
                _true(pc.greater(pc.utf8_length(rows.column(field.name)), limit)),
                Fault("too_long", field.name),
            )
    for name, pattern in CONTROL.items():
        found = _true(pc.match_substring_regex(rows.column(name), pattern))
        yield found, Fault("control_character", name)
    yield ~_within_time(rows.column("asserted_at")), Fault("time_out_of_range", "asserted_at")
    if knows:
        selectors = pc.unique(rows.column("model")).to_pylist()
        unknown = pa.array([s for s in selectors if s is not None and not knows(s)], pa.string())
        yield _true(pc.is_in(rows.column("model"), unknown)), Fault("unknown_model", "model")


def _missing(rows: pa.RecordBatch, upsert: Mask) -> Iterator[tuple[Mask, Fault]]:
    always = needed(CORRECTIONS, "always")
    for name in needed(CORRECTIONS, "always", "upsert"):
        column = rows.column(name)
        empty = column.is_null() if column.type == TIME else pc.equal(pc.fill_null(column, ""), "")
        yield _true(empty) & (upsert | (name in always)), Fault("missing_value", name)


def _entry_faults(column: pa.Array, field: pa.Field) -> Iterator[tuple[Mask, Fault]]:
    """Faults of list columns: too many entries, an empty one, one that is too long."""
    yield _true(pc.greater(pc.list_value_length(column), MAX_ENTRIES)), Fault("too_many", field.name)
    entries, row = column.flatten(), row_of_each_entry(column)
    texts = entries.flatten() if pa.types.is_struct(entries.type) else [entries]
    for text in texts:
        blank = _true(pc.equal(pc.utf8_trim_whitespace(pc.fill_null(text, "")), ""))
        yield _spread(blank, row, len(column)), Fault("empty_entry", field.name)
        lengthy = _true(pc.greater(pc.utf8_length(text), longest(field)))
        yield _spread(lengthy, row, len(column)), Fault("too_long", field.name)


def _spread(entries: Mask, row: npt.NDArray[np.int64], count: int) -> Mask:
    rows = np.zeros(count, bool)
    rows[row[entries]] = True
    return rows


def _within_time(column: pa.Array) -> Mask:
    """Milliseconds that were taken for seconds land far outside."""
    ticks = pc.fill_null(column.cast(pa.int64()), FIRST)
    return _true(pc.and_(pc.greater_equal(ticks, FIRST), pc.less(ticks, LAST)))


def _true(condition: pa.Array) -> Mask:
    mask: Mask = pc.fill_null(condition, False).to_numpy(zero_copy_only=False)
    return mask


def _rejects(
    batch: pa.RecordBatch, rows: pa.RecordBatch, numbers: npt.NDArray[np.int64], fault: Fault, first_row: int
) -> pa.Table:
    """The rows with these numbers, all rejected for one fault."""
    bad = rows.take(numbers)
    count = len(numbers)
    columns = {
        "row": pa.array(numbers + first_row, pa.int64()),
        "correction_id": pc.utf8_slice_codeunits(bad.column("correction_id"), 0, SHOWN),
        "model": pc.utf8_slice_codeunits(bad.column("model"), 0, SHOWN),
        "reason": pa.repeat(fault.reason, count),
        "column": pa.repeat(fault.column, count),
        "value": _given(batch, bad, numbers, fault),
        "remedy": pa.repeat(REMEDIES[fault.reason], count),
    }
    return pa.table(columns, schema=VERDICTS)


def _given(
    batch: pa.RecordBatch, bad: pa.RecordBatch, numbers: npt.NDArray[np.int64], fault: Fault
) -> pa.Array:
    """What the writer put there, as far as it can be shown at all."""
    if fault.column not in batch.schema.names:
        return pa.nulls(len(numbers), pa.string())
    if fault.reason != "wrong_type" and bad.column(fault.column).type == pa.string():
        return pc.utf8_slice_codeunits(bad.column(fault.column), 0, SHOWN)
    given = batch.column(fault.column)
    return pa.array([_shown(given[int(number)]) for number in numbers], pa.string())


def _shown(cell: pa.Scalar) -> str | None:
    try:
        value = cell.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return "(cannot be shown)"
    if value is None:
        return None
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text[:SHOWN].encode(errors="replace").decode()
