"""The queue: Parquet files in a directory or bucket, dropped by any tool at any time.

A file is known by the digest of its bytes. What is read here is one file at a time; which files are new to
which model is `intake`'s affair. Producers need two lines:

    from corrigenda.storage.corrections.queue import submit
    submit([{"correction_id": "mayor-1", "model": "llama-*", "subject": …, …}], to="s3://bucket/queue")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corrigenda.config import Location
from corrigenda.errors import CorrectionsError
from corrigenda.facts import sha256_hex
from corrigenda.storage.corrections.checks import REMEDIES, VERDICTS, check, file_reject, missing_columns
from corrigenda.storage.corrections.schemas import CORRECTIONS
from corrigenda.storage.objects.interface import ObjectInfo, ObjectStore
from corrigenda.storage.objects.opening import open_store

BATCH_ROWS = 8_192  # rows that are decoded and checked together: bounds the memory
MOST_DECODED = 1 << 30  # bytes that one file may decode to
# A small file that decodes to much is a bomb: some kilobytes of repeated text can be gigabytes.
SMALL_DECODED, MOST_GROWTH = 64 << 20, 100
Selects = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that stays in the queue, unread: it is reported every time and stops nobody."""

    file: str
    reason: str
    detail: str

    @property
    def remedy(self) -> str:
        return REMEDIES[self.reason]


@dataclass(frozen=True, slots=True)
class QueueFile:
    """A file's bytes as corrections: every row is in `good` or in `rejects`.

    good      CORRECTIONS
    rejects   checks.VERDICTS
    """

    digest: str
    good: pa.Table
    rejects: pa.Table


@dataclass(frozen=True, slots=True)
class Receipt:
    """What `submit` did: the file it wrote (None when no row was good), and the rows it would not take."""

    file: str | None
    accepted: int
    rejects: tuple[Mapping[str, Any], ...]


def submit(rows: Any, *, to: str | Location | ObjectStore, strict: bool = True) -> Receipt:
    """Check `rows` and put them into the queue at `to`.

    rows     a list of dicts, or a data frame of pandas, polars, pyarrow or DuckDB; `asserted_at` is now
             where it is left out
    strict   whether one bad row refuses them all; otherwise the good rows are enqueued

    Submitting the same rows twice is submitting them once. Raises CorrectionsError when rows are refused.
    """
    table = as_table(rows, now=datetime.now(UTC))
    checked = check_table(table)
    refused = checked.rejects.to_pylist()
    if refused and (strict or not checked.good.num_rows):
        raise refusal(refused, table.num_rows)
    queue = to if not isinstance(to, str | Location) else _opened(to)
    name = enqueue(queue, checked.good) if checked.good.num_rows else None
    return Receipt(name, checked.good.num_rows, tuple(refused))


def refusal(rejects: Sequence[Mapping[str, Any]], rows: int) -> CorrectionsError:
    """The error for rows that are not taken: how many, and the first one's fault and remedy."""
    first = rejects[0]
    whole = first["row"] is None
    shown = ("reason", "column") if whole else ("row", "reason", "column", "value")
    return CorrectionsError(
        "this is no table of corrections" if whole else f"{len(rejects)} of {rows} rows are no corrections",
        remedy=first["remedy"],
        **{name: first[name] for name in shown},
    )


def as_table(rows: Any, *, now: datetime) -> pa.Table:
    """A data frame or a list of dicts as an Arrow table. Raises CorrectionsError."""
    try:
        if isinstance(rows, Mapping):
            rows = [rows]
        table = pa.table(rows) if hasattr(rows, "__arrow_c_stream__") else _from_dicts(list(rows))
    except (pa.ArrowException, TypeError, ValueError, AttributeError) as fault:
        raise CorrectionsError(
            "these rows cannot be made into a table",
            remedy="Give one type per column",
            cause=str(fault)[:200],
        ) from None
    if "asserted_at" in table.column_names:
        return table
    return table.append_column(
        "asserted_at", pa.repeat(pa.scalar(now, pa.timestamp("us", tz="UTC")), len(table))
    )


def enqueue(queue: ObjectStore, table: pa.Table) -> str:
    """Write checked rows as one file of the queue and return its key. Twice is once."""
    body = to_bytes(table)
    name = f"corrections-{sha256_hex(body)[:32]}.parquet"
    queue.create(name, body)
    return name


def to_bytes(table: pa.Table) -> bytes:
    """Queue rows as Parquet; the same rows give the same bytes."""
    sink = BytesIO()
    pq.write_table(table.cast(CORRECTIONS), sink, compression="zstd")
    return sink.getvalue()


def listing(queue: ObjectStore) -> tuple[list[ObjectInfo], list[Problem]]:
    """The queue's Parquet files by key, and what else lies there.

    Names with a part that begins with `_` or `.` are the bookkeeping of Spark and other writers.
    """
    files, problems = [], []
    for info in queue.list(""):
        if any(part.startswith(("_", ".")) for part in info.key.split("/")):
            continue
        if info.key.lower().endswith((".parquet", ".parq", ".pq")):
            files.append(info)
        else:
            problems.append(Problem(info.key, "not_parquet", ""))
    return sorted(files, key=lambda info: info.key), problems


def read(name: str, body: bytes, *, knows: Selects | None = None) -> QueueFile | Problem:
    """A queue file's rows, checked; or the Problem that keeps it in the queue.

    A file that is still being written has no footer yet: it is unreadable today and read tomorrow.
    """
    try:
        file = parquet_file(body)
        names = file.schema_arrow.names
        if file.metadata.num_rows and (whole := _whole_file_fault(names)):
            return QueueFile(sha256_hex(body), no_rows(), whole)
        wanted = [column for column in CORRECTIONS.names if column in names]
        most = max(SMALL_DECODED, min(MOST_DECODED, MOST_GROWTH * len(body)))
        batches = file.iter_batches(batch_size=BATCH_ROWS, columns=wanted)
        return _checked(sha256_hex(body), _bounded(file, batches, most), knows)
    except _TooLargeError as fault:
        return Problem(name, "too_large", str(fault))
    # Damaged bytes surface as whatever the decoder met first.
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError) as fault:
        return Problem(name, "unreadable_file", str(fault).splitlines()[0][:200] if str(fault) else "empty")


class _TooLargeError(Exception):
    """A file decodes to more than may be held."""


def _bounded(file: pq.ParquetFile, batches: Iterable[pa.RecordBatch], most: int) -> Iterator[pa.RecordBatch]:
    """The batches, as long as they come to at most so many bytes; what the file declares counts first."""
    groups = (file.metadata.row_group(number) for number in range(file.metadata.num_row_groups))
    size = max((group.total_byte_size for group in groups), default=0)
    decoded = 0
    if size <= most:
        for batch in batches:
            decoded += batch.nbytes
            if decoded > most:
                break
            yield batch
        else:
            return
    raise _TooLargeError(f"it decodes to more than {most >> 20} MB")


def parquet_file(body: bytes) -> pq.ParquetFile:
    """A Parquet file in memory; Spark's old times (INT96) as microseconds: far ones do not fit nanoseconds,
    and would come out as others."""
    return pq.ParquetFile(BytesIO(body), coerce_int96_timestamp_unit="us")


def check_table(table: pa.Table, *, knows: Selects | None = None) -> QueueFile:
    """The rows of any table, parted; a missing column rejects it as a whole. The digest is empty."""
    if table.num_rows and (whole := _whole_file_fault(table.column_names)):
        return QueueFile("", no_rows(), whole)
    return _checked(
        "", table.select([n for n in CORRECTIONS.names if n in table.column_names]).to_batches(), knows
    )


def _checked(digest: str, batches: Iterable[pa.RecordBatch], knows: Selects | None) -> QueueFile:
    good, rejects, row = [no_rows()], [VERDICTS.empty_table()], 0
    for batch in batches:
        part = check(batch, first_row=row, knows=knows)
        row += len(batch)
        good.append(part.good)
        rejects.append(part.rejects)
    return QueueFile(digest, pa.concat_tables(good), pa.concat_tables(rejects))


def _whole_file_fault(names: list[str]) -> pa.Table | None:
    if missing := missing_columns(names):
        return file_reject("missing_column", ", ".join(missing))
    if twice := [name for name in CORRECTIONS.names if names.count(name) > 1]:
        return file_reject("duplicate_column", ", ".join(twice))
    return None


def no_rows() -> pa.Table:
    """An empty table of checked rows."""
    return pa.schema([column.with_nullable(True) for column in CORRECTIONS]).empty_table()


def _from_dicts(rows: list[Mapping[str, Any]]) -> pa.Table:
    # from_pylist takes its columns from the first row alone.
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _opened(to: str | Location) -> ObjectStore:
    location = to if isinstance(to, Location) else Location(url=to)
    return open_store(location, root=Path(), create=True)
