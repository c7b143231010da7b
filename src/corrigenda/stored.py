"""The one reader of stored JSON and Parquet: what comes out has the types that were asked for.

Whoever can write to a store can put anything there. Every reader of ours comes through here, so that hostile
bytes are one kind of error, `UnreadableError`, which the caller turns into its own: damage of this model, an
entry that is not known, a row that is left out. Never a traceback, never a value of another type further in.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow import Schema, Table

DEPTH = 64  # of nested JSON
_BATCH_ROWS = 65_536
_MOST_BYTES = 4 << 30  # of one decoded table; a small file can say that it is a large one


class UnreadableError(ValueError):
    """These bytes are not what they should be; says why."""


def value_of(body: bytes | str) -> Any:
    """Stored JSON: UTF-8, whole texts, no name twice, no number too large, not nested without end.

    Raises UnreadableError.
    """
    try:
        text = body.decode("utf-8") if isinstance(body, bytes) else body
        found = json.loads(text, object_pairs_hook=_object)
        _check(found, DEPTH)
    except (ValueError, RecursionError, MemoryError) as fault:
        raise UnreadableError(f"it is no JSON of ours: {fault}"[:300]) from None
    return found


def object_of(body: bytes | str, **types: type | tuple[type, ...]) -> dict[str, Any]:
    """A stored JSON object; those of the named fields that are there have the types given.

    A whole number is no truth value here, though Python thinks so. Raises UnreadableError.
    """
    found = value_of(body)
    if not isinstance(found, dict):
        raise UnreadableError(f"it is {type(found).__name__}, and no object")
    return of_types(found, **types)


def of_types(found: dict[str, Any], **types: type | tuple[type, ...]) -> dict[str, Any]:
    """`found` itself, when those of the named fields that are there have the types given."""
    for name, wanted in types.items():
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        if name in found and type(found[name]) not in kinds:
            raise UnreadableError(f"its {name!r} is {type(found[name]).__name__}")
    return found


def table_of(body: bytes, schema: Schema, *, lacks: Collection[str] | None = None) -> Table:
    """Stored Parquet with exactly the columns of `schema`; a column that the file lacks is null.

    lacks   the columns that it may lack; None: all that may be null

    Raises UnreadableError for what is no Parquet, has another type in a column, a null where none may be,
    texts that are no UTF-8, or more than `_MOST_BYTES`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(BytesIO(body))
        names = [name for name in schema.names if name in file.schema_arrow.names]
        if lost := set(schema.names) - set(names) - set(schema.names if lacks is None else lacks):
            raise UnreadableError(f"columns are missing: {', '.join(sorted(lost))}")
        batches, size = [], 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=names):
            batches.append(_fitted(batch, schema))
            size += batch.nbytes
            if size > _MOST_BYTES:
                raise UnreadableError(f"it holds more than {_MOST_BYTES:,} bytes")
        table = pa.Table.from_batches(batches, schema=schema)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as fault:
        raise UnreadableError(f"it is no table of ours: {str(fault) or type(fault).__name__}"[:300]) from None
    return table


def rows_of(body: bytes, schema: Schema, *, lacks: Collection[str] | None = None) -> list[dict[str, Any]]:
    """`table_of` as rows. Raises UnreadableError, also for a time that no calendar has."""
    table = table_of(body, schema, lacks=lacks)
    try:
        found: list[dict[str, Any]] = table.to_pylist()
    except (ValueError, OverflowError) as fault:
        raise UnreadableError(f"a value of it is none: {fault}"[:300]) from None
    return found


def _fitted(batch: Any, schema: Schema) -> Any:
    import pyarrow as pa

    columns = []
    for field in schema:
        known = field.name in batch.schema.names
        column = batch.column(field.name) if known else pa.nulls(batch.num_rows, field.type)
        if column.type != field.type:
            column = column.cast(field.type)
        if column.null_count and not field.nullable:
            raise UnreadableError(f"a {field.name} is missing")
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UnreadableError("it says a name twice")
    return found


def _check(value: Any, depth: int) -> None:
    if depth == 0:
        raise UnreadableError(f"it is nested more than {DEPTH} deep")
    for inner in _inside(value):
        _check(inner, depth - 1)
    if isinstance(value, str):
        value.encode("utf-8")  # a lone surrogate is no text
    elif type(value) is int and not -(1 << 63) <= value < 1 << 63:
        raise UnreadableError("a whole number of it is too large")


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value
        yield from value.values()
    elif isinstance(value, list):
        yield from value
