"""Reads CSV by DuckDB's strict reader; every line of the file is in a row, in a reject, or blank.

Where rows begin and end is the reader's affair. What is checked here is that none is missing: each row
takes as many lines as it has line ends, and what is left over refuses the file.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb

from corrigenda.storage.corrections.fields import KNOWN, folded
from corrigenda.storage.corrections.records import Record, Records, Row, refused

DELIMITERS = ",;\t|"
LONGEST_LINE = 4 << 20  # bytes; a quote that is never closed makes one line of the rest of a file
_READ = """
    select * from read_csv(?, auto_detect = false, header = false, delim = ?, quote = '"', escape = '"',
        strict_mode = true, new_line = '\\n', max_line_size = ?, null_padding = false, all_varchar = true,
        store_rejects = true, rejects_limit = 0, columns = {columns})
"""
_REJECTS = """
    select line_byte_position, min_by(error_type, byte_position), any_value(csv_line)
    from reject_errors group by all order by 1
"""
REASONS = {"TOO MANY COLUMNS": "too_many_cells", "MISSING COLUMNS": "too_few_cells"}


class _Refused(NamedTuple):
    """Lines that the reader could not part into cells, as one stretch: where it starts, and its lines."""

    first: int
    reason: str
    lines: tuple[str, ...]


def read_csv(text: str) -> Records:
    """Rows under a header. Raises ValueError when there is none, or lines are left that no row accounts for.

    The delimiter is that of a first line `sep=;`, or else the one that gives most of the known column names.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    start = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    told = None
    if start < len(lines) and lines[start].strip().lower().startswith("sep="):
        told, start = lines[start].strip()[4:] or "\t", _after_blanks(lines, start + 1)
    if start >= len(lines):
        return Records((), (), notes=("the file is empty",))
    delimiter, header = _header(lines[start], told)
    body = lines[start + 1 :]
    cells, refusals = _cells(body, delimiter, len(header))
    return _accounted(body, header, delimiter, cells, refusals)


def _header(line: str, told: str | None) -> tuple[str, list[str]]:
    """The delimiter and the column names, folded: blanks around them and case carry no meaning."""
    if told is not None and len(told) != 1:
        raise ValueError(f"its first line names {told!r} as delimiter; that must be one character")
    read = {d: names for d in told or DELIMITERS if (names := _names(line, d))}
    delimiter = max(
        read, default=DELIMITERS[0], key=lambda d: (sum(name in KNOWN for name in read[d]), len(read[d]))
    )
    names = read.get(delimiter, [""])
    if len(names) == 1 and len(read) < len(told or DELIMITERS):
        raise ValueError("its header cannot be read: a quote is not closed")
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"its header names {', '.join(twice)} twice; keep each column once")
    return delimiter, names


def _names(line: str, delimiter: str) -> list[str] | None:
    """The names in a header; None when this cannot be its delimiter."""
    try:
        (names,) = csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        return None
    return [folded(name) for name in names]


def _cells(
    body: Sequence[str], delimiter: str, width: int
) -> tuple[list[tuple[str | None, ...]], list[_Refused]]:
    """Rows as the reader gives them, and the stretches of lines that it refused."""
    data = "\n".join(body).encode()
    columns = "{" + ", ".join(f"'c{number}': 'varchar'" for number in range(width)) + "}"
    with tempfile.TemporaryDirectory() as folder, duckdb.connect(config={"threads": 1}) as connection:
        path = Path(folder) / "rows.csv"
        path.write_bytes(data)
        asked = _READ.format(columns=columns)
        try:
            rows = connection.execute(asked, [str(path), delimiter, LONGEST_LINE]).fetchall()
            found = connection.execute(_REJECTS).fetchall()
        except duckdb.Error as fault:
            raise ValueError(str(fault).splitlines()[0]) from None
    refusals = list(_refused(data, found))
    return rows, [one for one in refusals if any(line.strip() for line in one.lines)]


def _refused(data: bytes, found: Sequence[tuple[int, str, str]]) -> Iterator[_Refused]:
    """The reader's rejects, which are in the order of the file, each with its first line."""
    lines, counted = 0, 0
    for position, error, line in found:
        lines, counted = lines + data.count(b"\n", counted, position - 1), position - 1
        # Blank lines before a row are counted into it.
        first = lines + len(line) - len(line.lstrip("\n"))
        yield _Refused(first, REASONS.get(error, "broken_quotes"), tuple(line.strip("\n").split("\n")))


def _accounted(
    body: Sequence[str],
    header: Sequence[str],
    delimiter: str,
    cells: Sequence[tuple[str | None, ...]],
    refusals: Sequence[_Refused],
) -> Records:
    """Rows and rejects in the order of the file, each with its number.

    A row counts as one, lines that were refused count each. Raises ValueError when lines are left over.
    """
    records: list[Record] = []
    numbers: list[int] = []
    rejects: list[Row] = []
    place, number, empty = 0, 0, 0
    waiting = list(refusals)
    usual = _usual_surplus(body, delimiter, cells)
    for row in [*cells, None]:
        place = _after_blanks(body, place)
        while waiting and waiting[0].first == place:
            gone = waiting.pop(0)
            rejects += _line_rejects(gone, number, header, delimiter)
            number, place = number + len(gone.lines), _after_blanks(body, place + len(gone.lines))
        if row is None:
            break
        end = place + 1 + sum(cell.count("\n") for cell in row if cell)
        taken, place = body[place:end], end
        stands, surplus = _stands_in("\n".join(taken), row), _surplus(taken[-1:], delimiter, row)
        nameless = any(cell and cell.strip() for name, cell in zip(header, row, strict=True) if not name)
        if not stands or surplus != usual or nameless:
            gone = _Refused(end, "too_many_cells" if stands else "broken_quotes", tuple(taken))
            rejects += _line_rejects(gone, number, header, delimiter)
            number += len(taken)
            continue
        record = {
            name: cell for name, cell in zip(header, row, strict=True) if name and cell and cell.strip()
        }
        if not record:
            empty += 1
        elif at := next(
            (n for n, c in zip(header, row, strict=True) if _swallows(c, n, header, delimiter)), None
        ):
            rejects.append(refused(number, "swallowed_rows", at, record.get(at), record))
            number += 1
        else:
            records.append(record)
            numbers.append(number)
            number += 1
    if waiting or place != len(body):
        raise ValueError(f"line {place + 2} and those after it cannot be parted into rows")
    notes = (f"{empty} rows without any text are passed over",) if empty else ()
    return Records(tuple(records), tuple(numbers), tuple(rejects), notes, tuple(filter(None, header)))


def _usual_surplus(body: Sequence[str], delimiter: str, cells: Sequence[tuple[str | None, ...]]) -> int:
    """How many empty cells behind the last column each row has, when all (two at least) have as many.

    Some writers end every row with a delimiter. In a single row the same is an unquoted delimiter that has
    moved its texts by one column.
    """
    rows = [line for line in body if line.strip()]
    if len(rows) < 2 or len(rows) != len(cells):
        return 0
    found = {_surplus([line], delimiter, row) for line, row in zip(rows, cells, strict=True)}
    return found.pop() if len(found) == 1 else 0


def _surplus(last: Sequence[str], delimiter: str, row: Sequence[str | None]) -> int:
    """Empty cells that a row has behind its last column, which the reader passes over."""
    line = last[0].rstrip("\r\n") if last else ""
    behind = len(line) - len(line.rstrip(delimiter))
    empty = next((count for count, cell in enumerate(reversed(row)) if cell), len(row))
    return max(0, behind - empty)


def _stands_in(lines: str, row: Sequence[str | None]) -> bool:
    """Whether the cells of a row are in the lines that it is said to take."""
    return all(cell.replace('"', '""') in lines or cell in lines for cell in row if cell)


def _after_blanks(body: Sequence[str], place: int) -> int:
    while place < len(body) and not body[place].strip():
        place += 1
    return place


def _line_rejects(gone: _Refused, number: int, header: Sequence[str], delimiter: str) -> Iterator[Row]:
    """One reject a line: nobody knows which of them was meant to be a row."""
    for offset, line in enumerate(gone.lines):
        known = dict(zip(header, line.split(delimiter), strict=False)) if not offset else {}
        yield refused(number + offset, gone.reason, "", line, known)


def _swallows(cell: str | None, name: str, header: Sequence[str], delimiter: str) -> bool:
    """Whether a text of several lines has delimiters as if a quote were opened in one row, closed in another.

    The column at place k then holds the rest of its row (columns - 1 - k delimiters) and ends with the
    first k cells of a later one.
    """
    if not cell or "\n" not in cell or len(header) < 2:
        return False
    first, *_, last = cell.split("\n")
    place, borders = header.index(name), len(header) - 1
    return first.count(delimiter) >= borders - place and last.count(delimiter) >= place
