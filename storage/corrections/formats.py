"""Reads files that people hand in: Parquet, CSV, Excel, JSON and JSON Lines, in any of the shapes of
`shapes`.

What was understood, and what was not taken, is said in words, so that a person sees it before anything is
enqueued. Every row of a file is good or rejected, or the file is refused as a whole.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from corrigenda.errors import CorrectionsError
from corrigenda.storage.corrections import partitions, queue, reading
from corrigenda.storage.corrections.answers import Left
from corrigenda.storage.corrections.cells import LIST_CELLS, listed, questions
from corrigenda.storage.corrections.checks import missing_columns
from corrigenda.storage.corrections.csv_rows import read_csv
from corrigenda.storage.corrections.decoding import decoded, sniffed, unpacked
from corrigenda.storage.corrections.excel_rows import read_excel
from corrigenda.storage.corrections.fields import KNOWN, folded, missing_hint, unknown_notes
from corrigenda.storage.corrections.json_rows import read_json
from corrigenda.storage.corrections.reading import Selects
from corrigenda.storage.corrections.reasons import REMEDIES, wrong_type
from corrigenda.storage.corrections.records import Record, Records, Row, numbered, refused
from corrigenda.storage.corrections.schemas import CORRECTIONS, LISTS
from corrigenda.storage.corrections.shapes import FOREIGN, TEXTS, rows_of, shape_of
from corrigenda.storage.corrections.texts import RecordError

STDIN = Path("-")
# As they come from records: times and numbers are still texts, which the checks then read.
_RECORDS = pa.schema(
    [pa.field(name, pa.string()) for name in TEXTS]
    + [pa.field(name, CORRECTIONS.field(name).type) for name in LISTS]
)


@dataclass(frozen=True, slots=True)
class Understood:
    """A file as corrections: what it was taken for, what can be enqueued, what is refused and why.

    good      schemas.CORRECTIONS, checked
    numbers   the row number of each good row
    rejects   row, correction_id, model, reason, column, value, remedy; rows count from 0
    notes     what was filled in, spelt otherwise, or not taken
    """

    kind: str
    shape: str
    good: pa.Table
    rejects: tuple[Row, ...]
    notes: tuple[str, ...]
    numbers: tuple[int, ...] = ()

    @property
    def description(self) -> str:
        good, refused = self.good.num_rows, len(self.rejects)
        return f"{self.kind}, {self.shape} shape; good rows: {good}, rejected: {refused}"


@dataclass(frozen=True, slots=True)
class _Told:
    """What whoever hands the file in says for rows that do not say it themselves."""

    model: str | None
    at: datetime
    source: str | None


def understand(
    path: Path,
    *,
    model: str | None = None,
    asserted_at: datetime | None = None,
    source: str | None = None,
    encoding: str | None = None,
    knows: Selects | None = None,
) -> Understood:
    """Read and check a file of corrections; `-` is standard input.

    model         goes into every row; None leaves the rows' own
    asserted_at   for rows without one; None takes the file's own time, so that handing it in again
                  changes nothing
    source        who says so, for rows that do not say; None leaves it open
    encoding      of text that is neither UTF-8 nor begins with a byte order mark
    knows         whether a model selector means any model

    Raises CorrectionsError when the file cannot be read as corrections at all.
    """
    told = _Told(model, asserted_at or _time_of(path), source)
    kind, content = _content(path, encoding)
    if isinstance(content, pa.Table):
        said = partitions.said_by_folders(path.absolute().as_posix())
        content = _with_folders(path, content, said)
        if not _is_ours(content):
            content = replace(
                _decoded_cells(numbered(_records(content))), columns=tuple(content.column_names)
            )
    found = (
        _from_table(content, told) if isinstance(content, pa.Table) else _from_records(path, content, told)
    )
    return _checked(path, kind, found, told, knows)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A file's rows before they are checked: their shape, the table, the row number of each, rejects,
    notes.
    """

    shape: str
    table: pa.Table
    numbers: Sequence[int] | None
    rejects: tuple[Row, ...]
    notes: tuple[str, ...]


def _checked(path: Path, kind: str, found: _Rows, told: _Told, knows: Selects | None) -> Understood:
    _require_model(path, found.table)
    checked = reading.check_table(found.table, knows=knows)
    rejects = checked.rejects.to_pylist()
    if rejects and rejects[0]["row"] is None:
        raise queue.refusal(rejects, found.table.num_rows)
    if found.numbers is not None:
        rejects = [row | {"row": found.numbers[row["row"]]} for row in rejects]
    every = tuple(sorted([*found.rejects, *rejects], key=lambda row: int(row["row"])))
    notes = [
        *found.notes,
        *(f"model is {told.model} in every row" for _ in [told.model] if told.model is not None),
    ]
    good = checked.good if told.source is None else _attributed(checked.good, told.source, notes)
    if not good.num_rows and not every:
        notes.append("there is no row in it")
    places = (
        checked.numbers if found.numbers is None else tuple(found.numbers[row] for row in checked.numbers)
    )
    return Understood(kind, found.shape, good, every, (*notes, *checked.notes), places)


def _content(path: Path, encoding: str | None) -> tuple[str, pa.Table | Records]:
    kind = "file"
    try:
        packed = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
        body, packing = unpacked(packed)
        kind = "Parquet" if _is_parquet(path, packing) else sniffed(body)
        if kind == "Parquet":
            return kind, reading.parquet_file(body).read()
        if kind == "Excel":
            return kind, read_excel(body)
        text, other = decoded(body, encoding)
        found = read_json(text) if kind == "JSON" else _decoded_cells(read_csv(text))
        notes = (f"the encoding is {other}",) if other else ()
        return kind, replace(found, notes=(*notes, *found.notes))
    except OSError as fault:
        what = fault.strerror or str(fault).splitlines()[0]
        raise _unreadable(path, kind, what) from None
    except (pa.ArrowException, ValueError, KeyError, RecursionError) as fault:
        raise _unreadable(path, kind, str(fault).splitlines()[0] if str(fault) else "damaged") from None


def _is_parquet(path: Path, packing: str | None) -> bool:
    """A half-written Parquet file has its name already, and not yet its first bytes."""
    return packing is None and path.suffix.lower() in (".parquet", ".parq", ".pq")


def _decoded_cells(table: Records) -> Records:
    """Cells that hold lists as JSON, as lists; broken ones reject their row."""
    records: list[Record] = []
    numbers: list[int] = []
    rejects = list(table.rejects)
    for record, number in zip(table.records, table.numbers, strict=True):
        try:
            records.append({name: _cell(name, value) for name, value in record.items()})
            numbers.append(number)
        except RecordError as fault:
            rejects.append(_refusal(number, record, fault))
    done = replace(table, records=tuple(records), numbers=tuple(numbers), rejects=tuple(rejects))
    return replace(done, notes=(*done.notes, *questions(done)))


def _cell(name: str, value: object) -> object:
    if name not in LIST_CELLS or not isinstance(value, str):
        return value
    try:
        return listed(value)
    except ValueError:
        raise RecordError("wrong_type", name, value) from None


def _records(table: pa.Table) -> Iterator[Record]:
    names = [folded(name) for name in table.column_names]
    for row in table.rename_columns([str(place) for place in range(len(names))]).to_pylist():
        yield dict(zip(names, row.values(), strict=True))


def _is_ours(table: pa.Table) -> bool:
    """Whether a table has our columns and nothing of another shape: it need not be read row by row."""
    names = [folded(name) for name in table.column_names]
    return not missing_columns([*names, "model", "asserted_at"]) and not FOREIGN & set(names)


def _with_folders(path: Path, table: pa.Table, said: dict[str, str | None]) -> pa.Table:
    named = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema=table.schema)]
    if any(name := partitions.contradicted(batch, said) for batch in named):
        raise CorrectionsError(
            "a column says otherwise than the folder of its file",
            remedy=REMEDIES["partition_conflict"],
            column=name,
            path=str(path),
        )
    return pa.Table.from_batches([partitions.with_columns(batch, said) for batch in named]) if said else table


def _from_table(table: pa.Table, told: _Told) -> _Rows:
    """A table with our columns; the model and the time are laid over it where they are missing or told."""
    names = [folded(name) for name in table.column_names]
    if told.model is not None:
        kept = table.drop_columns([c for c, n in zip(table.column_names, names, strict=True) if n == "model"])
        table = kept.append_column("model", pa.repeat(told.model, len(table)))
    if "asserted_at" in names:
        return _Rows("corrections", table, None, (), ())
    return _Rows("corrections", queue.as_table(table, now=told.at), None, (), (_time_note(told.at),))


def _from_records(path: Path, content: Records, told: _Told) -> _Rows:
    """Records as a table, the row number of each, and the records that could not be turned."""
    shape = next(filter(None, map(shape_of, content.records)), None)
    _require_shape(path, shape, content)
    rows: list[Row] = []
    numbers: list[int] = []
    rejects, left = list(content.rejects), Left()
    for record, number in zip(content.records, content.numbers, strict=True):
        try:
            for row in rows_of(record, shape, left):
                rows.append(row | ({"model": told.model} if told.model is not None else {}))
                numbers.append(number)
        except RecordError as fault:
            rejects.append(_refusal(number, record, fault))
    undated = [row for row in rows if not row.get("asserted_at")]
    for row in undated:
        row["asserted_at"] = told.at.isoformat()
    table = pa.Table.from_pylist(rows, schema=_RECORDS)
    notes = [*content.notes, *_untaken(content, left), *([_time_note(told.at)] if undated else [])]
    return _Rows(shape or "corrections", table, numbers, tuple(rejects), tuple(notes))


def _untaken(content: Records, left: Left) -> Iterator[str]:
    counted = Counter(
        name for record in content.records for name, value in record.items() if value is not None
    )
    yield from unknown_notes(content.columns or counted, counted if not content.columns else None)
    for what, count in left.items():
        if count:
            yield f"{what}: {count} are not taken"


def _attributed(good: pa.Table, source: str, notes: list[str]) -> pa.Table:
    """Rows that do not say where the fact comes from come from whoever hands them in."""
    if not good["source"].null_count:
        return good
    notes.append(f"source is {source} where it is not given")
    place = good.column_names.index("source")
    return good.set_column(place, good.schema.field("source"), pc.fill_null(good["source"], source))


def _require_shape(path: Path, shape: str | None, content: Records) -> None:
    """Raises CorrectionsError when no record has a shape that we know, or columns of our own are missing."""
    names = list(content.columns) or list(dict.fromkeys(name for one in content.records for name in one))
    missing = missing_columns([*names, "correction_id", "model", "asserted_at"])
    nothing = not names or (not content.records and KNOWN & set(names))
    if nothing or (shape is not None and not (shape == "corrections" and missing)):
        return
    if shape is None and not KNOWN & set(names):
        raise CorrectionsError(
            "these records have none of the shapes that we know",
            remedy="Give them the documentation's columns, or those of CounterFact, EasyEdit, MEND or MQuAKE",
            path=str(path),
            fields=sorted(map(str, names))[:12],
        )
    raise CorrectionsError(
        "columns are missing",
        remedy=REMEDIES["missing_column"] + missing_hint(missing, names),
        columns=missing,
        path=str(path),
    )


def _require_model(path: Path, table: pa.Table) -> None:
    names = [folded(name) for name in table.column_names]
    if table.num_rows and (
        "model" not in names or table.column(names.index("model")).null_count == len(table)
    ):
        raise CorrectionsError(
            "no row says for which model it is",
            remedy="Pass --model, or add a `model` column",
            path=str(path),
        )


def _refusal(number: int, record: Record, fault: RecordError) -> Row:
    more = ""
    if fault.reason == "wrong_type":
        wanted = CORRECTIONS.field(fault.column).type if fault.column in CORRECTIONS.names else pa.string()
        more = wrong_type(_kind(fault.value), wanted).removeprefix(REMEDIES["wrong_type"])
    return refused(number, fault.reason, fault.column, fault.value, record, more=more)


def _kind(value: object) -> str:
    named = {
        "str": "text",
        "dict": "an object",
        "list": "a list",
        "float": "a fraction",
        "bool": "true or false",
    }
    return named.get(type(value).__name__, type(value).__name__)


def _time_note(at: datetime) -> str:
    return f"asserted_at is {at.isoformat(timespec='seconds')} where it is not given"


def _time_of(path: Path) -> datetime:
    if path == STDIN:
        return datetime.now(UTC).replace(microsecond=0)
    try:
        return datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
    except OSError as fault:
        raise _unreadable(path, "file", fault.strerror or str(fault)) from None


def _unreadable(path: Path, kind: str, what: str) -> CorrectionsError:
    return CorrectionsError(
        f"this {kind} cannot be read: {what[:300]}",
        remedy="Check the path and that the file is complete; text must be UTF-8",
        path=str(path),
    )
