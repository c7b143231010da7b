"""Brings columns of any writer to the types of CORRECTIONS, value by value.

Writers differ: pandas leaves nulls untyped, Spark writes binary, DuckDB naive timestamps, others dictionary
codes. What means the same is taken; a value that cannot be taken is null in the result and marked, so that
its row is rejected and every other row goes on. Nothing here raises on bad data.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corrigenda.storage.corrections.cells import listed
from corrigenda.storage.corrections.schemas import NEIGHBOUR, TIME
from corrigenda.storage.corrections.times import instant

Mask = npt.NDArray[np.bool_]


class Conformed(NamedTuple):
    """A column of the wanted type, and which rows held something that has no place in it."""

    values: pa.Array
    bad: Mask


def conform(column: pa.Array, kind: pa.DataType) -> Conformed:
    """`column` as `kind`, one of the types of CORRECTIONS; both have the same length."""
    if isinstance(column, pa.ExtensionArray):
        return conform(_uuid_texts(column) if column.type == pa.uuid() else column.storage, kind)
    if pa.types.is_dictionary(column.type):
        return conform(column.dictionary_decode(), kind)
    if pa.types.is_null(column.type) or column.null_count == len(column):
        return Conformed(pa.nulls(len(column), kind), np.zeros(len(column), bool))
    return _CONVERTERS[kind](column)


def _text(column: pa.Array) -> Conformed:
    """Strings, whole numbers, whole decimals and UTF-8 bytes. Floats are refused: 1990.0 is no text that
    anybody wrote.
    """
    if pa.types.is_integer(column.type):
        return _all_good(column.cast(pa.string()))
    if pa.types.is_decimal(column.type):
        return _each(column, pa.string(), _whole_text)
    if not _is_textual(column.type):
        return _all_bad(column, pa.string())
    try:
        column.cast(pa.string()).validate(full=True)
    except pa.ArrowInvalid:
        return _each(column, pa.string(), lambda value: value)
    return _all_good(column.cast(pa.string()))


def _time(column: pa.Array) -> Conformed:
    """Timestamps of any unit (naive ones are UTC), dates, and ISO 8601 texts."""
    if _is_textual(column.type):
        return _each(column, TIME, instant)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if not pa.types.is_timestamp(column.type):
        return _all_bad(column, TIME)
    ticks = column.cast(pa.int64())
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
    if per_second > 10**6:
        return _all_good(pc.divide(ticks, 1_000).cast(TIME))
    scale = 10**6 // per_second
    bad = _mask(pc.greater(pc.abs(ticks), (2**63 - 1) // scale))
    fitting = pc.if_else(pa.array(bad), pa.scalar(None, pa.int64()), ticks)
    return Conformed(pc.multiply(fitting, scale).cast(TIME), bad)


def _whole(column: pa.Array) -> Conformed:
    """Whole numbers within 32 bits, also when a writer made them floats or texts."""
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or _is_textual(column.type):
        return _each(column, pa.int32(), _int32)
    return _all_bad(column, pa.int32())


def _texts(column: pa.Array) -> Conformed:
    """Lists of texts, also as JSON; one bad entry marks its row. A text that is no JSON list is one text."""
    if _is_textual(column.type):
        return _each(column, pa.list_(pa.string()), _text_list)
    if not _is_list(column.type):
        return _all_bad(column, pa.list_(pa.string()))
    inner = conform(column.flatten(), pa.string())
    return Conformed(relisted(column, inner.values), _rows_of(column, inner.bad))


def _neighbours(column: pa.Array) -> Conformed:
    """Lists of structs that have `prompt` and `answer`, in any order, with whatever else; also as JSON."""
    kind = pa.list_(NEIGHBOUR)
    if _is_textual(column.type):
        return _each(column, kind, _neighbour_list)
    if not _is_list(column.type):
        return _all_bad(column, kind)
    entries = column.flatten()
    if not pa.types.is_struct(entries.type) and len(entries):
        return _marked(column, kind, _mask(pc.greater(pc.list_value_length(column), 0)))
    names = [field.name for field in entries.type] if pa.types.is_struct(entries.type) else []
    parts = [
        conform(pc.struct_field(entries, names.index(name)), pa.string())
        if names.count(name) == 1
        else Conformed(pa.nulls(len(entries), pa.string()), np.zeros(len(entries), bool))
        for name in ("prompt", "answer")
    ]
    joined = pa.StructArray.from_arrays([part.values for part in parts], fields=list(NEIGHBOUR))
    return Conformed(relisted(column, joined), _rows_of(column, parts[0].bad | parts[1].bad))


_CONVERTERS: dict[pa.DataType, Callable[[pa.Array], Conformed]] = {
    pa.string(): _text,
    TIME: _time,
    pa.int32(): _whole,
    pa.list_(pa.string()): _texts,
    pa.list_(NEIGHBOUR): _neighbours,
}


def row_of_each_entry(column: pa.Array) -> npt.NDArray[np.int64]:
    """For a list column: the row number of every entry of `column.flatten()`."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return np.repeat(np.arange(len(column)), lengths)


def _rows_of(column: pa.Array, bad_entries: Mask) -> Mask:
    bad = np.zeros(len(column), bool)
    bad[row_of_each_entry(column)[bad_entries]] = True
    return bad


def relisted(column: pa.Array, entries: pa.Array) -> pa.Array:
    """`entries` in the lists of `column`, whose own nulls stay."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, entries, mask=column.is_null())


def _each(column: pa.Array, kind: pa.DataType, convert: Callable[[Any], Any]) -> Conformed:
    """The slow way, once per distinct value: `convert` raises ValueError on what it refuses."""
    known: dict[Any, Any] = {}
    bad = np.zeros(len(column), bool)
    textual = _is_textual(column.type)
    values = (column.cast(pa.large_binary()) if textual else column).to_pylist()
    for row, value in enumerate(values):
        if value not in known:
            known[value] = _converted(value, textual, convert)
        bad[row] = known[value] is _REFUSED
    return Conformed(pa.array([None if r else known[v] for v, r in zip(values, bad, strict=True)], kind), bad)


_REFUSED = object()


def _converted(value: Any, textual: bool, convert: Callable[[Any], Any]) -> Any:
    try:
        return None if value is None else convert(value.decode() if textual else value)
    except (ValueError, OverflowError):
        return _REFUSED


def _uuid_texts(column: pa.Array) -> pa.Array:
    return pa.array([None if one is None else str(one) for one in column.to_pylist()], pa.string())


def _whole_text(value: Decimal) -> str:
    if value != value.to_integral_value():
        raise ValueError(value)
    return str(int(value))


def _text_list(text: str) -> list[str] | None:
    found = listed(text)
    if isinstance(found, list) and all(isinstance(one, str) for one in found):
        return found
    if found is not text:
        raise ValueError(text)
    return [text] if text.strip() else None


def _neighbour_list(text: str) -> list[dict[str, str]] | None:
    if not text.strip():
        return None
    found = listed(text)
    if not isinstance(found, list):
        raise ValueError(text)
    return [{name: _said(one, name) for name in ("prompt", "answer")} for one in found]


def _said(neighbour: Any, name: str) -> str:
    if not isinstance(neighbour, dict) or not isinstance(neighbour.get(name), str):
        raise ValueError(neighbour)
    return str(neighbour[name])


def _int32(value: Any) -> int | None:
    if value != value:  # NaN is how pandas writes "none" into a column of whole numbers
        return None
    # 3,0 and 3.0 are whole; a European spreadsheet writes the comma.
    value = float(value.strip().replace(",", ".")) if isinstance(value, str) else value
    number = int(value)
    if abs(number) >= 2**31 or (isinstance(value, float) and number != value):
        raise ValueError(value)
    return number


def _all_good(values: pa.Array) -> Conformed:
    return Conformed(values, np.zeros(len(values), bool))


def _all_bad(column: pa.Array, kind: pa.DataType) -> Conformed:
    return _marked(column, kind, _mask(column.is_valid()))


def _marked(column: pa.Array, kind: pa.DataType, bad: Mask) -> Conformed:
    return Conformed(pa.nulls(len(column), kind), bad)


def _mask(condition: pa.Array) -> Mask:
    mask: Mask = pc.fill_null(condition, False).to_numpy(zero_copy_only=False)
    return mask


def _is_textual(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
        )
    )


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
