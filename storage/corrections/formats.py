"""Reads files that people hand in: Parquet, CSV, JSON and JSON Lines, in any of the shapes of `shapes`.

What was understood is said in words, so that a person sees it before anything is enqueued.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from corrigenda.errors import CorrectionsError
from corrigenda.storage.corrections import queue
from corrigenda.storage.corrections.checks import REMEDIES, missing_columns
from corrigenda.storage.corrections.queue import Selects
from corrigenda.storage.corrections.schemas import CORRECTIONS, LISTS
from corrigenda.storage.corrections.shapes import TEXTS, Record, RecordError, Row, rows_of, shape_of

KINDS = {
    ".parquet": "Parquet",
    ".pq": "Parquet",
    ".csv": "CSV",
    ".tsv": "CSV",
    ".json": "JSON",
    ".jsonl": "JSON Lines",
    ".ndjson": "JSON Lines",
}
# As they come from records: times and numbers are still texts, which the checks then read.
_RECORDS = pa.schema(
    [pa.field(name, pa.string()) for name in TEXTS]
    + [pa.field(name, CORRECTIONS.field(name).type) for name in LISTS]
)


@dataclass(frozen=True, slots=True)
class Understood:
    """A file as corrections: what it was taken for, what can be enqueued, what is refused and why.

    good      schemas.CORRECTIONS, checked
    rejects   row, correction_id, model, reason, column, value, remedy; rows count from 0
    notes     what was filled in
    """

    kind: str
    shape: str
    good: pa.Table
    rejects: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def description(self) -> str:
        good, refused = self.good.num_rows, len(self.rejects)
        return f"{self.kind}, {self.shape} shape; good rows: {good}, rejected: {refused}"


def understand(
    path: Path,
    *,
    model: str | None = None,
    asserted_at: datetime | None = None,
    source: str | None = None,
    knows: Selects | None = None,
) -> Understood:
    """Read and check a file of corrections.

    model         goes into every row; None leaves the rows' own
    asserted_at   for rows without one; None takes the file's own time, so that handing it in again
                  changes nothing
    source        who says so, for rows that do not say; None leaves it open
    knows         whether a model selector means any model

    Raises CorrectionsError when the file cannot be read as corrections at all.
    """
    at = asserted_at or _time_of(path)
    kind, content = _content(path)
    notes = [] if model is None else [f"model is {model} in every row"]
    if isinstance(content, pa.Table) and (
        not missing_columns([*content.column_names, "model", "asserted_at"])
    ):
        shape, numbers, refused = "corrections", None, list[Row]()
        table = _filled(content, model, at, notes)
    else:
        records = content.to_pylist() if isinstance(content, pa.Table) else content
        shape, table, numbers, refused = _converted(path, records, model, at, notes)
    _require_model(path, table)
    checked = queue.check_table(table, knows=knows)
    rejects = [row | {"row": _number(row["row"], numbers)} for row in checked.rejects.to_pylist()]
    if checked.rejects.num_rows and rejects[0]["row"] is None:
        raise queue.refusal(rejects, table.num_rows)
    good = checked.good if source is None else _attributed(checked.good, source, notes)
    return Understood(kind, shape, good, tuple(sorted([*refused, *rejects], key=_by_row)), tuple(notes))


def _content(path: Path) -> tuple[str, pa.Table | list[Record]]:
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise CorrectionsError(
            "a file of this kind is not known",
            remedy=f"Give it one of the endings {', '.join(KINDS)}",
            path=str(path),
        )
    try:
        body = path.read_bytes()
        if kind == "Parquet":
            return kind, queue.parquet_file(body).read()
        text = body.decode("utf-8-sig")
        return kind, list({"CSV": _csv, "JSON": _json, "JSON Lines": _json_lines}[kind](text))
    except OSError as fault:
        what = fault.strerror or str(fault).splitlines()[0]
        raise _unreadable(path, kind, what) from None
    except (pa.ArrowException, ValueError, KeyError, RecursionError, csv.Error) as fault:
        raise _unreadable(path, kind, str(fault).splitlines()[0] if str(fault) else "damaged") from None


def _csv(text: str) -> Iterator[Record]:
    """Rows under a header; the delimiter is whichever of , ; and tab the header has most of."""
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    for row in csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter):
        yield {name: value for name, value in row.items() if name is not None and value not in ("", None)}


def _json(text: str) -> Iterator[Record]:
    found = json.loads(text)
    records = found if isinstance(found, list) else [found]
    yield from (_object(record, number) for number, record in enumerate(records))


def _json_lines(text: str) -> Iterator[Record]:
    # Not splitlines(): JSON texts may hold U+2028, which is a line end there only.
    for number, line in enumerate(text.split("\n")):
        if line.strip():
            try:
                yield _object(json.loads(line), number)
            except json.JSONDecodeError as fault:
                raise ValueError(f"line {number + 1}: {fault}") from None


def _object(record: object, number: int) -> Record:
    if not isinstance(record, dict):
        raise ValueError(f"record {number + 1} is no object")
    return record


def _filled(table: pa.Table, model: str | None, at: datetime, notes: list[str]) -> pa.Table:
    """A table with our columns; the model and the time are laid over it where they are missing or told."""
    if model is not None:
        kept = table.drop_columns("model") if "model" in table.column_names else table
        table = kept.append_column("model", pa.repeat(model, len(table)))
    if "asserted_at" not in table.column_names:
        notes.append(_time_note(at))
        table = queue.as_table(table, now=at)
    return table


def _attributed(good: pa.Table, source: str, notes: list[str]) -> pa.Table:
    """Rows that do not say where the fact comes from come from whoever hands them in."""
    if not good["source"].null_count:
        return good
    notes.append(f"source is {source} where it is not given")
    place = good.column_names.index("source")
    return good.set_column(place, good.schema.field("source"), pc.fill_null(good["source"], source))


def _converted(
    path: Path, records: list[Record], model: str | None, at: datetime, notes: list[str]
) -> tuple[str, pa.Table, list[int], list[Row]]:
    """Records as a table, the record number of each row, and the records that could not be turned."""
    shape = next(filter(None, map(shape_of, records)), None)
    if records and shape is None:
        raise CorrectionsError(
            "these records have none of the shapes that we know",
            remedy="Give them the documentation's columns, or those of CounterFact, EasyEdit, MEND or MQuAKE",
            path=str(path),
            fields=sorted(map(str, records[0]))[:12],
        )
    _require_columns(path, shape, records)
    rows: list[Row] = []
    refused: list[Row] = []
    numbers, undated = [], False
    for number, record in enumerate(records):
        try:
            for row in rows_of(record, shape_of(record) or shape):
                undated |= not row.get("asserted_at")
                row["asserted_at"] = row.get("asserted_at") or at.isoformat()
                rows.append(row | ({"model": model} if model is not None else {}))
                numbers.append(number)
        except RecordError as fault:
            refused.append(_refused(number, record, fault))
    if undated:
        notes.append(_time_note(at))
    return shape or "corrections", pa.Table.from_pylist(rows, schema=_RECORDS), numbers, refused


def _require_columns(path: Path, shape: str | None, records: list[Record]) -> None:
    names = {name for record in records for name in record}
    missing = missing_columns([*names, "correction_id", "model", "asserted_at"])
    if records and shape == "corrections" and missing:
        raise CorrectionsError(
            "columns are missing", remedy=REMEDIES["missing_column"], columns=missing, path=str(path)
        )


def _require_model(path: Path, table: pa.Table) -> None:
    if table.num_rows and ("model" not in table.column_names or table["model"].null_count == len(table)):
        raise CorrectionsError(
            "no row says for which model it is",
            remedy="Pass --model, or add a `model` column",
            path=str(path),
        )


def _refused(number: int, record: Record, fault: RecordError) -> Row:
    named: dict[str, Any] = {"correction_id": record.get("correction_id"), "model": record.get("model")}
    return (
        {"row": number}
        | named
        | {
            "reason": fault.reason,
            "column": fault.column,
            "value": str(fault.value)[:200].encode(errors="replace").decode(),
            "remedy": REMEDIES[fault.reason],
        }
    )


def _number(row: int | None, numbers: list[int] | None) -> int | None:
    return row if numbers is None or row is None else numbers[row]


def _by_row(row: Row) -> int:
    return int(row["row"])


def _time_note(at: datetime) -> str:
    return f"asserted_at is {at.isoformat(timespec='seconds')} where it is not given"


def _time_of(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
    except OSError as fault:
        raise _unreadable(path, "file", fault.strerror or str(fault)) from None


def _unreadable(path: Path, kind: str, what: str) -> CorrectionsError:
    return CorrectionsError(
        f"this {kind} cannot be read: {what[:200]}",
        remedy="Check the path and that the file is complete; text must be UTF-8",
        path=str(path),
    )
