"""Reads one file of the queue: every row is good or rejected, or the whole file stays where it is.

What a file says is in its columns and in the folders above it. Which files are new to which model is
`intake`'s affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corrigenda.facts import digest_of, sha256_hex
from corrigenda.storage.corrections import partitions
from corrigenda.storage.corrections.checks import check, missing_columns
from corrigenda.storage.corrections.fields import folded, missing_hint, unknown_notes
from corrigenda.storage.corrections.reasons import REMEDIES
from corrigenda.storage.corrections.schemas import CORRECTIONS
from corrigenda.storage.corrections.two_facts import sharing_an_id
from corrigenda.storage.corrections.verdicts import FAULTS, Fault, file_reject, rejects_of

_BATCH_ROWS = 8_192  # rows that are decoded and checked together: bounds the memory
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
    rejects   FAULTS
    numbers   the row number of each good row
    notes     what was read otherwise than it was written, and columns that nobody reads
    """

    digest: str
    good: pa.Table
    rejects: pa.Table
    numbers: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


class _ConflictError(Exception):
    """A column that says otherwise than the folder of its file."""


def read(name: str, body: bytes, *, knows: Selects | None = None) -> QueueFile | Problem:
    """A queue file's rows, checked; or the Problem that keeps it in the queue.

    name   its key: `action=retract/` in it is a column

    A file that is still being written has no footer yet: it is unreadable today and read tomorrow.
    """
    said = partitions.said_by_folders(name)
    digest = digest_of([sha256_hex(body), said]) if said else sha256_hex(body)
    try:
        file = parquet_file(body)
        names = file.schema_arrow.names
        ours = _ours(names)
        if file.metadata.num_rows and (whole := _whole_file_fault([*ours, *(said.keys() - ours)])):
            return QueueFile(digest, no_rows(), whole)
        wanted = [column for column, our in zip(names, ours, strict=True) if our in CORRECTIONS.names]
        most = max(SMALL_DECODED, min(MOST_DECODED, MOST_GROWTH * len(body)))
        batches = _bounded(file, file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted), most)
        found = _checked(digest, _completed(batches, dict(zip(names, ours, strict=True)), said), knows)
    except _TooLargeError as fault:
        return Problem(name, "too_large", str(fault))
    except _ConflictError as conflict:
        return QueueFile(digest, no_rows(), file_reject("partition_conflict", str(conflict)))
    # Damaged bytes surface as whatever the decoder met first.
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError, MemoryError) as fault:
        return Problem(name, "unreadable_file", str(fault).splitlines()[0][:200] if str(fault) else "empty")
    return replace(found, notes=(*found.notes, *unknown_notes(ours)))


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
    ours = _ours(table.column_names)
    if table.num_rows and (whole := _whole_file_fault(ours)):
        return QueueFile("", no_rows(), whole)
    kept = table.select([place for place, our in enumerate(ours) if our in CORRECTIONS.names])
    named = dict(zip(table.column_names, ours, strict=True))
    found = _checked("", _completed(kept.to_batches(), named, {}), knows)
    return replace(found, notes=(*found.notes, *unknown_notes(ours)))


def no_rows() -> pa.Table:
    """An empty table of checked rows."""
    return pa.schema([column.with_nullable(True) for column in CORRECTIONS]).empty_table()


def _ours(names: Sequence[str]) -> list[str]:
    """For each column of a file the name of ours that it means: case, blanks and hyphens carry no meaning."""
    return [folded(name) if folded(name) in CORRECTIONS.names else name for name in names]


def _completed(
    batches: Iterable[pa.RecordBatch], ours: Mapping[str, str], said: Mapping[str, str | None]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        named = batch.rename_columns([ours[name] for name in batch.schema.names])
        if conflict := partitions.contradicted(named, said):
            raise _ConflictError(conflict)
        yield partitions.with_columns(named, said)


def _checked(digest: str, batches: Iterable[pa.RecordBatch], knows: Selects | None) -> QueueFile:
    good, rejects, row = [no_rows()], [FAULTS.empty_table()], 0
    numbers, respelt = [np.array([], np.int64)], dict[str, int]()
    for batch in batches:
        part = check(batch, first_row=row, knows=knows)
        row += len(batch)
        good.append(part.good)
        numbers.append(part.numbers)
        rejects.append(part.rejects)
        respelt |= {name: respelt.get(name, 0) + count for name, count in part.respelt.items()}
    table, places = pa.concat_tables(good), np.concatenate(numbers)
    twice = sharing_an_id(table)
    rejects.append(_two_facts(table, places, np.flatnonzero(twice)))
    return QueueFile(
        digest,
        good=table.filter(pa.array(~twice)),
        rejects=pa.concat_tables(rejects).sort_by("row"),
        numbers=tuple(places[~twice].tolist()),
        notes=tuple(_spelling(respelt)),
    )


def _two_facts(
    good: pa.Table,
    places: np.ndarray[tuple[int], np.dtype[np.int64]],
    rows: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> pa.Table:
    if not len(rows):
        return FAULTS.empty_table()
    batch = good.take(pa.array(rows)).combine_chunks().to_batches()[0]
    found = rejects_of(batch, batch, np.arange(len(rows)), Fault("two_facts", "correction_id"), 0)
    return found.set_column(0, FAULTS.field("row"), pa.array(places[rows], pa.int64()))


def _spelling(respelt: Mapping[str, int]) -> Iterator[str]:
    for name, count in respelt.items():
        yield f"{name} is spelt as readers type it in {count} rows: NFC, plain blanks, no invisible signs"


def _whole_file_fault(names: Sequence[str]) -> pa.Table | None:
    if missing := missing_columns(names):
        return file_reject("missing_column", ", ".join(missing), more=missing_hint(missing, names))
    if twice := [name for name in CORRECTIONS.names if list(names).count(name) > 1]:
        return file_reject("duplicate_column", ", ".join(twice))
    return None
