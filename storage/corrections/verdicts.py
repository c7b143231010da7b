"""Rejects as a table: which row, which fault, what stood there, what to do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corrigenda.storage.corrections.reasons import REMEDIES, wrong_type
from corrigenda.storage.corrections.schemas import CORRECTIONS, REJECTS

# REJECTS without the file, which only the caller knows.
FAULTS = pa.schema([field for field in REJECTS if field.name not in ("file_digest", "file")])
SHOWN = 200  # characters of a bad value


class Fault(NamedTuple):
    """Why a row is rejected: a key of REMEDIES and the column at fault."""

    reason: str
    column: str


def file_reject(reason: str, column: str, *, more: str = "") -> pa.Table:
    """The reject of a whole file: its `row` is null; `more` is what the remedy says of this one."""
    row = {"reason": reason, "column": column, "remedy": REMEDIES[reason] + more}
    return pa.Table.from_pylist([row], schema=FAULTS)


def rejects_of(
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
        "remedy": _remedies(batch, numbers, fault),
    }
    return pa.table(columns, schema=FAULTS)


def _remedies(batch: pa.RecordBatch, numbers: npt.NDArray[np.int64], fault: Fault) -> pa.Array:
    if fault.reason != "wrong_type":
        return pa.repeat(REMEDIES[fault.reason], len(numbers))
    found = type_name(batch.schema.field(fault.column).type)
    return pa.repeat(wrong_type(found, CORRECTIONS.field(fault.column).type), len(numbers))


def type_name(kind: pa.DataType) -> str:
    """A type in the words of who wrote the file; bytes that are no text are said to be that."""
    if isinstance(kind, pa.BaseExtensionType):
        return str(kind.extension_name)
    if pa.types.is_dictionary(kind):
        return type_name(kind.value_type)
    named = {pa.string(): "text", pa.large_string(): "text", pa.binary(): "bytes", pa.float64(): "double"}
    return named.get(kind, str(kind)).replace("item: ", "").replace("element: ", "")


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
