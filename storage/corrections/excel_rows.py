"""Reads the first sheet of an Excel workbook as a table of cells; the other sheets are named, not read.

Numbers come as a workbook holds them: whole ones as whole numbers, times as times. A formula has only the
value that Excel last computed; where there is none the cell is refused, not empty.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from datetime import date, datetime
from io import BytesIO
from typing import Any

from corrigenda.errors import SetupError
from corrigenda.storage.corrections.fields import folded
from corrigenda.storage.corrections.records import Record, Records, Row, refused

MOST_EXACT = 10**15  # Excel keeps fifteen digits of a number: a longer id has lost its last ones


def read_excel(body: bytes) -> Records:
    """Rows under a header. Raises SetupError without openpyxl, ValueError for what is no workbook."""
    book, formulas = _opened(body, computed=True), _opened(body, computed=False)
    sheet, said = book.worksheets[0], formulas.worksheets[0]
    rows = list(sheet.iter_rows(values_only=True))
    said_rows = list(said.iter_rows(values_only=True))
    start = next((number for number, row in enumerate(rows) if any(map(_filled, row))), len(rows))
    notes = tuple(f"sheet {other.title!r} is not read" for other in book.worksheets[1:] if other.max_row > 1)
    if start == len(rows):
        return Records((), (), notes=(f"sheet {sheet.title!r} is empty", *notes))
    header = [folded(cell) if _filled(cell) else "" for cell in rows[start]]
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise ValueError(f"its header names {', '.join(twice)} twice; keep each column once")
    return _parted(
        header, rows[start + 1 :], said_rows[start + 1 :], (f"read is sheet {sheet.title!r}", *notes)
    )


def _opened(body: bytes, *, computed: bool) -> Any:
    try:
        import openpyxl
    except ImportError:
        raise SetupError(
            "Excel workbooks need openpyxl", remedy="Run `pip install 'corrigenda[excel]'`, or save it as CSV"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return openpyxl.load_workbook(BytesIO(body), data_only=computed)
    # Damaged workbooks surface as whatever the reader met first.
    except Exception as fault:
        raise ValueError(f"it is no workbook: {fault}") from None


def _parted(
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    said: Sequence[Sequence[Any]],
    notes: tuple[str, ...],
) -> Records:
    records: list[Record] = []
    numbers: list[int] = []
    rejects: list[Row] = []
    filled = [
        (row, formulas)
        for row, formulas in zip(rows, said, strict=True)
        if any(_filled(c) or _filled(f) for c, f in zip(row, formulas, strict=True))
    ]
    for number, (row, formulas) in enumerate(filled):
        record = {
            name: _plain(cell) for name, cell in zip(header, row, strict=True) if name and _filled(cell)
        }
        fault = _fault(header, row, formulas)
        if fault:
            reason, column, value = fault
            rejects.append(refused(number, reason, column, value, record))
        else:
            records.append(record)
            numbers.append(number)
    return Records(tuple(records), tuple(numbers), tuple(rejects), notes, tuple(filter(None, header)))


def _fault(header: Sequence[str], row: Sequence[Any], said: Sequence[Any]) -> tuple[str, str, Any] | None:
    for name, cell, formula in zip(header, row, said, strict=True):
        if not name and _filled(cell):
            return "too_many_cells", "", cell
        if isinstance(formula, str) and formula.startswith("=") and not _filled(cell):
            return "not_computed", name, formula
        if isinstance(cell, str) and cell.startswith("#") and formula != cell:
            return "not_computed", name, cell
        if isinstance(cell, int | float) and not isinstance(cell, bool) and abs(cell) >= MOST_EXACT:
            return "rounded_id", name, cell
    return None


def _filled(cell: Any) -> bool:
    return cell is not None and str(cell).strip() != ""


def _plain(cell: Any) -> Any:
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, bool | float):
        return cell
    return cell if isinstance(cell, datetime | date | int) else str(cell)
