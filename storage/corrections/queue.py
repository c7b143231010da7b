"""The queue: Parquet files in a directory or bucket, dropped by any tool at any time.

A file is known by the digest of its bytes, and of what its folders say. How one is read is `reading`'s
affair, which files are new to which model is `intake`'s. Producers need two lines:

    from corrigenda.storage.corrections.queue import submit
    submit([{"correction_id": "mayor-1", "model": "llama-*", "subject": …, …}], to="s3://bucket/queue")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from corrigenda.storage.corrections import partitions
from corrigenda.storage.corrections.reading import Problem, check_table
from corrigenda.storage.corrections.schemas import CORRECTIONS
from corrigenda.storage.objects.interface import ObjectInfo, ObjectStore
from corrigenda.storage.objects.opening import open_store


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

    Names with a part that begins with `_` or `.` are the bookkeeping of Spark and other writers; a folder
    with the bookkeeping of a table format is a problem as a whole.
    """
    found = list(queue.list(""))
    tables = partitions.table_folders(info.key for info in found)
    files, problems = (
        [],
        [Problem(root or ".", "table_folder", kind) for root, kind in sorted(tables.items())],
    )
    for info in found:
        if info.key.startswith(tuple(tables)) or any(
            part.startswith(("_", ".")) for part in info.key.split("/")
        ):
            continue
        if info.key.lower().endswith((".parquet", ".parq", ".pq")):
            files.append(info)
        else:
            problems.append(Problem(info.key, "not_parquet", ""))
    return sorted(files, key=lambda info: info.key), problems


def _from_dicts(rows: list[Mapping[str, Any]]) -> pa.Table:
    # from_pylist takes its columns from the first row alone.
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _opened(to: str | Location) -> ObjectStore:
    location = to if isinstance(to, Location) else Location(url=to)
    return open_store(location, root=Path(), create=True)
