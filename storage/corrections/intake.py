"""What is new in the queue, and for which model: one call for a night of the whole fleet.

A file is new to a model when it has rows for that model and is not among the files that the model's release
consumed. Looking changes nothing: what was consumed moves with the model's ref, so that a run that dies has
consumed nothing. Rejects and the index are written by `record`; both follow from the queue's files and the
fleet alone, so that writing them twice is writing them once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corrigenda.config import FleetConfig
from corrigenda.errors import NotFoundError, ObjectUnreadableError
from corrigenda.facts import digest_of, sha256_hex
from corrigenda.storage.corrections import queue, reading
from corrigenda.storage.corrections.reading import Problem, QueueFile
from corrigenda.storage.corrections.schemas import REJECTS, Arrival, correction_of
from corrigenda.storage.objects.cache import Cache
from corrigenda.storage.objects.interface import ObjectInfo, ObjectStore
from corrigenda.storage.objects.keys import NOBODY, Keyring
from corrigenda.stored import UnreadableError, object_of, table_of

_INDEX = "queue"  # kind of the cache entries
INDEX_VERSION = 3  # bumped by hand when rows are checked in another way
MOST_ROWS = 1_000_000  # of all files together, after which no further one is read in a night
MOST_SELECTORS = 10_000  # a file with more of them is read every time rather than indexed

Matching = Callable[[str], frozenset[str]]


class Indexed(NamedTuple):
    """What the index keeps of a queue file: its digest, and the `model` values of its sound rows."""

    digest: str
    selectors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelIntake:
    """The new corrections of one model.

    rows    schemas.CORRECTIONS, and `file`: the digest of the file that brought each
    files   digests of the files that are consumed once these rows are in the ledger
    """

    model: str
    rows: pa.Table
    files: frozenset[str]

    def without(self, consumed: frozenset[str]) -> ModelIntake:
        """What is still new when another run has published since the look: none of its files is left."""
        if self.files.isdisjoint(consumed):
            return self
        left = self.files - consumed
        rows = self.rows.filter(pc.is_in(self.rows["file"], pa.array(sorted(left), pa.string())))
        return ModelIntake(self.model, rows, left)

    def arrivals(self) -> Iterator[Arrival]:
        """The rows as the ledger takes them, made a batch at a time."""
        for batch in self.rows.to_batches(max_chunksize=8_192):
            for row in batch.to_pylist():
                yield Arrival(correction_of(row), row["file"])


@dataclass(slots=True)
class Intake:
    """A look at the whole queue.

    wanted      per model that was looked for: digests of the files that are new to it
    selectors   per model: the `model` values that mean it
    rows        good rows of the files that are new to some model, and `file`, an index into `digests`
    rejects     per file digest: schemas.REJECTS, for every file that was read; empty where all is well
    problems    files that stay in the queue; they are reported every time and stop nobody
    index       per index key: what is known now of the files that lie there
    learnt      whether the index of the store does not say all of that
    skipped     files that were known to hold nothing new, and not read
    keys        what the index is sealed with and believed by
    """

    wanted: dict[str, set[str]]
    selectors: dict[str, set[str]]
    rows: list[pa.Table] = field(default_factory=list)
    digests: dict[str, int] = field(default_factory=dict)
    rejects: dict[str, pa.Table] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    index: dict[str, Indexed] = field(default_factory=dict)
    learnt: bool = False
    skipped: int = 0
    keys: Keyring = NOBODY

    def put_off(self, name: str, key: str, known: Indexed | None) -> None:
        """Leave a file for the next look: this one has rows enough."""
        self.problems.append(Problem(name, "night_is_full", f"{MOST_ROWS:,} rows are taken in at a time"))
        if known:
            self.index[key] = known

    @property
    def models(self) -> tuple[str, ...]:
        """Models that have something new, in the order in which they were asked for."""
        return tuple(model for model, files in self.wanted.items() if files)

    @property
    def rejected(self) -> int:
        """Rows refused in the files that were read; a file refused as a whole counts once."""
        return sum(table.num_rows for table in self.rejects.values())

    def of(self, model: str) -> ModelIntake:
        """What is new for one model; nothing for one that was not looked for.

        Rows are picked on demand: fifty models cost no fifty copies.
        """
        new = self.wanted.get(model, set())
        wanted = pa.array([self.digests[digest] for digest in sorted(new)], pa.int32())
        chosen = pa.array(sorted(self.selectors.get(model, ())), pa.string())
        picked = [
            table.filter(pc.and_(pc.is_in(table["model"], chosen), pc.is_in(table["file"], wanted)))
            for table in self.rows
        ]
        rows = pa.concat_tables([_no_rows(), *picked])
        digests = pa.array(list(self.digests), pa.string()).take(rows["file"].combine_chunks())
        return ModelIntake(model, rows.drop_columns("file").append_column("file", digests), frozenset(new))


def nothing(models: Iterable[str]) -> Intake:
    """What an empty queue holds for these models."""
    return Intake({model: set() for model in models}, {model: set() for model in models})


def look(
    queue_store: ObjectStore, state: ObjectStore, fleet: FleetConfig, consumed: Mapping[str, frozenset[str]]
) -> Intake:
    """Read the queue files that hold something new for a model. Writes nothing.

    consumed   per model to look for: digests of the files in its current release (none for a new model)
    """
    matching = cache(lambda selector: frozenset(fleet.matching(selector)))
    files, problems = queue.listing(queue_store)
    found = nothing(consumed)
    found.problems += problems
    found.keys = Keyring.of(fleet)
    index = _index(queue_store, state, found.keys)
    for info in files:
        key = _index_key(info)
        known = index.get(key)
        if sum(table.num_rows for table in found.rows) >= MOST_ROWS:
            found.put_off(info.key, key, known)
        elif known and (known.digest in found.digests or not any(_new(known, matching, consumed))):
            found.skipped += 1
            found.index[key] = known
        elif fresh := _take(found, queue_store, info.key, matching, consumed):
            found.index[key] = fresh
            found.learnt |= fresh != known
    return found


def record(queue_store: ObjectStore, state: ObjectStore, found: Intake) -> None:
    """Write the rejects, then the index: a file is known only once its rejects are on record."""
    for digest, table in found.rejects.items():
        _write_rejects(state, digest, table)
    if found.learnt:
        indexed = {k: v for k, v in found.index.items() if len(v.selectors) <= MOST_SELECTORS}
        body = json.dumps(indexed, sort_keys=True, ensure_ascii=False).encode()
        Cache(state, found.keys).remember(_INDEX, _scope(queue_store), body)


def rejects(state: ObjectStore) -> pa.Table:
    """All rejects on record, schemas.REJECTS."""
    return pa.concat_tables(
        [REJECTS.empty_table(), *(_rejects(state, i.key) for i in state.list("rejects/"))]
    )


def _rejects(state: ObjectStore, key: str) -> pa.Table:
    """The rejects of one file; where the record is damaged, one row that says so."""
    try:
        return table_of(state.get(key)[0], REJECTS)
    except UnreadableError as fault:
        row = dict.fromkeys(REJECTS.names, "") | {"file_digest": PurePosixPath(key).stem, "row": None}
        row |= {"file": key, "reason": "unreadable_record", "value": str(fault)[:200]}
        row |= {"remedy": "Delete this record; the next run that reads the queue file writes it anew"}
        return pa.Table.from_pylist([row], schema=REJECTS)


def _take(
    found: Intake,
    queue_store: ObjectStore,
    name: str,
    matching: Matching,
    consumed: Mapping[str, frozenset[str]],
) -> Indexed | None:
    """Read one file into `found`. None when it could not be read, which is then among the problems."""
    try:
        body, _ = queue_store.get(name)
    except NotFoundError:
        return None  # taken away since the listing
    except ObjectUnreadableError as fault:
        found.problems.append(Problem(name, "unreadable_file", f"{fault.what}. {fault.remedy}"))
        return None
    file = reading.read(name, body, knows=lambda selector: bool(matching(selector)))
    if isinstance(file, Problem):
        found.problems.append(file)
        return None
    known = Indexed(file.digest, _selectors(file))
    if known.digest not in found.digests:
        _sort_in(found, name, file, known, matching, consumed)
    return known


def _sort_in(
    found: Intake,
    name: str,
    file: QueueFile,
    known: Indexed,
    matching: Matching,
    consumed: Mapping[str, frozenset[str]],
) -> None:
    number = found.digests[file.digest] = len(found.digests)
    found.rejects[file.digest] = _named(file.rejects, file.digest, name)
    new = list(_new(known, matching, consumed))
    for selector, model in new:
        found.wanted[model].add(file.digest)
        found.selectors[model].add(selector)
    if new:
        column = pa.array(np.full(file.good.num_rows, number, np.int32))
        found.rows.append(file.good.append_column("file", column))


def _new(
    known: Indexed, matching: Matching, consumed: Mapping[str, frozenset[str]]
) -> Iterator[tuple[str, str]]:
    """(selector, model) of the models to which a file is new."""
    for selector in known.selectors:
        for model in matching(selector):
            if model in consumed and known.digest not in consumed[model]:
                yield selector, model


def _selectors(file: QueueFile) -> tuple[str, ...]:
    """Those of rows for unknown models too: the fleet may have such a model tomorrow."""
    strangers = file.rejects.filter(pc.equal(file.rejects["reason"], "unknown_model"))
    said = [*pc.unique(file.good["model"]).to_pylist(), *pc.unique(strangers["model"]).to_pylist()]
    return tuple(sorted(set(said)))


def _named(verdicts: pa.Table, digest: str, name: str) -> pa.Table:
    count = verdicts.num_rows
    columns = {"file_digest": pa.repeat(digest, count), "file": pa.repeat(name, count)}
    return pa.table(columns | {c: verdicts[c] for c in verdicts.column_names}, schema=REJECTS)


def _write_rejects(state: ObjectStore, digest: str, table: pa.Table) -> None:
    """A row for an unknown model is no reject any more when the fleet has got that model: so `replace`."""
    key = f"rejects/{digest}.parquet"
    if not table.num_rows and state.stat(key) is None:
        return
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd")
    body = sink.getvalue()
    if state.create(key, body) is None:
        there, version = state.get(key)
        if there != body:
            state.replace(key, body, version=version)


def _index(queue_store: ObjectStore, state: ObjectStore, keys: Keyring) -> dict[str, Indexed]:
    """One object for all files: a queue that has grown for years is still one read."""
    body = Cache(state, keys).lookup(_INDEX, _scope(queue_store)) or b"{}"
    try:
        return {key: _known(said) for key, said in object_of(body).items()}
    except (ValueError, TypeError):
        return {}  # as good as none: the files are read again


def _known(said: Any) -> Indexed:
    digest, names = said
    if not isinstance(digest, str) or not all(isinstance(name, str) for name in names):
        raise ValueError("no digest, or no selectors")
    return Indexed(digest, tuple(names))


def _scope(queue_store: ObjectStore) -> str:
    return digest_of(["queue", INDEX_VERSION, queue_store.url])


def _index_key(info: ObjectInfo) -> str:
    """Another size or version is another file. Not among them: the time, which a copy may keep."""
    return sha256_hex(f"{info.size} {info.version} {info.key}".encode())


def _no_rows() -> pa.Table:
    return reading.no_rows().append_column("file", pa.array([], pa.int32()))
