"""Checks queue rows with vectorised expressions, in one pass: good rows on one side, rejects on the other.

A row has one verdict, the first fault found in the order below. Knows nothing of files in a store, of the
fleet (the caller says which selectors are known) or of the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corrigenda.storage.corrections.conform import Conformed, Mask, conform, relisted, row_of_each_entry
from corrigenda.storage.corrections.schemas import CORRECTIONS, NEIGHBOUR, TIME, longest, needed
from corrigenda.storage.corrections.spelling import respelt, spelt_column
from corrigenda.storage.corrections.verdicts import FAULTS, Fault, rejects_of

MAX_ENTRIES = 1_000
FIRST, LAST = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) * 10**6 for year in (1970, 2200))
SPELT = ("correction_id", "model", "subject", "prompt", "target_new", "target_old", "question")
# 1.23E+15, or 1,23E+15: what a spreadsheet makes of a long number, the same of many of them.
ROUNDED = r"^[0-9]([.,][0-9]+)?[eE]\+?[0-9]+$"
# Line ends and tabs are text in a prompt; an id and a selector are shown in tables, so there they are not.
IN_TEXT = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
CONTROL = dict.fromkeys(("correction_id", "model"), "[\x00-\x1f\x7f]") | dict.fromkeys(
    ("subject", "prompt", "target_new", "target_old", "question"), IN_TEXT
)


@dataclass(frozen=True, slots=True)
class Checked:
    """Both sides of a check.

    good      CORRECTIONS
    numbers   the row number of each good row
    rejects   FAULTS
    respelt   per column, how many of the good rows have a text that is spelt otherwise now
    """

    good: pa.Table
    numbers: npt.NDArray[np.int64]
    rejects: pa.Table
    respelt: dict[str, int]


def check(
    batch: pa.RecordBatch, *, first_row: int = 0, knows: Callable[[str], bool] | None = None
) -> Checked:
    """Part the good rows of `batch` from the bad ones.

    batch      any columns; those of CORRECTIONS are read, others are not looked at
    first_row  number of the batch's first row within its file
    knows      whether a model selector means any model; None takes every selector
    """
    rows, faults, odd = _conformed(batch)
    verdict, found = np.zeros(len(rows), np.int16), [*faults, *_faults(rows, knows)]
    for number, (mask, _) in enumerate(found, start=1):
        verdict[mask & (verdict == 0)] = number
    parts = [FAULTS.empty_table()]
    for number in np.unique(verdict[verdict > 0]):
        parts.append(
            rejects_of(batch, rows, np.flatnonzero(verdict == number), found[number - 1][1], first_row)
        )
    sound = verdict == 0
    good = pa.Table.from_batches([rows]).filter(pa.array(sound))
    respelt = {name: count for name, mask in odd.items() if (count := int((mask & sound).sum()))}
    return Checked(good, np.flatnonzero(sound) + first_row, pa.concat_tables(parts).sort_by("row"), respelt)


def missing_columns(names: Sequence[str]) -> list[str]:
    """What a file must have and does not.

    Subject, prompt and target are wanted of upserts only: a file that says `action` for each row may hold
    retracts alone, so there the rows are asked one by one.
    """
    needs = ("always",) if "action" in names else ("always", "upsert")
    return [name for name in needed(CORRECTIONS, *needs) if name not in names]


def _conformed(
    batch: pa.RecordBatch,
) -> tuple[pa.RecordBatch, list[tuple[Mask, Fault]], dict[str, Mask]]:
    """The batch in CORRECTIONS' types, texts spelt as readers type them, `action` filled in; what had no
    place there; and which rows of which columns are spelt otherwise now.
    """
    columns, faults, odd = [], [], {}
    for field in CORRECTIONS:
        conformed = _column(batch, field)
        faults.append((conformed.bad, Fault("wrong_type", field.name)))
        tidy = _tidy(field.name, conformed.values)
        columns.append(tidy)
        if field.name in SPELT:
            odd[field.name] = respelt(conformed.values, tidy)
    nullable = pa.schema([field.with_nullable(True) for field in CORRECTIONS])
    return pa.RecordBatch.from_arrays(columns, schema=nullable), faults, odd


def _column(batch: pa.RecordBatch, field: pa.Field) -> Conformed:
    if field.name in batch.schema.names:
        return conform(batch.column(field.name), field.type)
    return Conformed(pa.nulls(len(batch), field.type), np.zeros(len(batch), bool))


def _tidy(name: str, values: pa.Array) -> pa.Array:
    """Texts are spelt as readers type them; an action that is left out is an upsert."""
    if name == "action":
        said = pc.utf8_lower(pc.utf8_trim_whitespace(pc.fill_null(values, "")))
        return pc.if_else(pc.equal(said, ""), "upsert", said)
    if pa.types.is_list(values.type):
        return relisted(values, _spelt_entries(values.flatten()))
    return spelt_column(values) if name in SPELT else values


def _spelt_entries(entries: pa.Array) -> pa.Array:
    if not pa.types.is_struct(entries.type):
        return spelt_column(entries)
    parts = [spelt_column(part) for part in entries.flatten()]
    return pa.StructArray.from_arrays(parts, fields=list(NEIGHBOUR), mask=entries.is_null())


def _faults(rows: pa.RecordBatch, knows: Callable[[str], bool] | None) -> Iterator[tuple[Mask, Fault]]:
    upsert = _true(pc.equal(rows.column("action"), "upsert"))
    retract = _true(pc.equal(rows.column("action"), "retract"))
    yield ~(upsert | retract), Fault("unknown_action", "action")
    yield from _missing(rows, upsert)
    rounded = pc.match_substring_regex(rows.column("correction_id"), ROUNDED)
    yield _true(rounded), Fault("rounded_id", "correction_id")
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
        control = _true(pc.match_substring_regex(text, IN_TEXT))
        yield _spread(control, row, len(column)), Fault("control_character", field.name)


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
