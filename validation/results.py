"""Results: validation rows as append-only Parquet in the store, and SQL over them.

The files are the truth; DuckDB lives in memory, for the length of a question, so that no reader ever locks a
writer. SQL sees Arrow data that was opened for it and can touch neither files nor the network.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from corrigenda.errors import LostRaceError, UsageError
from corrigenda.facts import Warn
from corrigenda.stored import UnreadableError, table_of
from corrigenda.validation.gates import Verdict
from corrigenda.validation.queries import sql
from corrigenda.validation.tables import NIGHTS, NIGHTS_PREFIX, RELEASES, ROWS, VERDICTS

ROWS_PREFIX = "results/date="
VERDICTS_PREFIX = "verdicts/date="
VIEWS = ("rows", "published", "latest")
_MOST_S = 60.0  # seconds that one question may take
MOST_MEMORY = "2GB"  # that DuckDB may use, and nothing on the disk
MOST_ANSWER = 512 << 20  # bytes
MACROS = ("wilson_low", "wilson_high")
PREFIXES = (ROWS_PREFIX, VERDICTS_PREFIX, NIGHTS_PREFIX)
_READERS = 8  # objects read at a time from a store that is not a directory
_READS = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.RELATION}


class _Info(Protocol):
    @property
    def key(self) -> str: ...


class Objects(Protocol):
    """What results need of an object store (corrigenda.storage.objects.interface.ObjectStore has it)."""

    @property
    def url(self) -> str: ...

    def get(self, key: str) -> tuple[bytes, str]: ...

    def create(self, key: str, body: bytes) -> str | None: ...

    def list(self, prefix: str) -> Iterator[Any]: ...


class Published(Protocol):
    """What results need of a release (corrigenda.storage.releases.manifests.Release has it)."""

    @property
    def model(self) -> str: ...

    @property
    def number(self) -> int: ...

    @property
    def created_at(self) -> str: ...

    @property
    def layer(self) -> int | None: ...

    @property
    def digest(self) -> str: ...

    @property
    def counts(self) -> Mapping[str, Any]: ...


def listed(release: Published) -> dict[str, Any]:
    """A release as the table `releases` has it."""
    return {
        "model": release.model,
        "release": release.number,
        "run_id": release.counts.get("run_id"),
        "created_at": release.created_at,
        "layer": release.layer,
        "manifest": release.digest,
    }


def append(store: Objects, rows: pa.Table, verdict: Verdict | None = None) -> str:
    """Write the rows of one run (ROWS), and what the gates said of it; the key of the rows' file.

    Writing the same rows again is no error. Raises LostRaceError when the run has written other rows.
    """
    if rows.num_rows == 0:
        raise UsageError("a run without rows has no results", remedy="Score some probes first")
    first = rows.slice(0, 1).to_pylist()[0]
    tail = f"{first['scored_at']:%Y-%m-%d}/model={first['model']}/{first['run_id']}.parquet"
    if verdict is not None:
        facts = {name: first[name] for name in ("run_id", "release", "model", "scored_at")}
        gates = [facts | asdict(gate) for gate in verdict.gates]
        _write(store, VERDICTS_PREFIX + tail, pa.Table.from_pylist(gates, schema=VERDICTS))
    _write(store, ROWS_PREFIX + tail, rows.select(ROWS.names).cast(ROWS))
    return ROWS_PREFIX + tail


def _write(store: Objects, key: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    body = sink.getvalue().to_pybytes()
    if store.create(key, body) is None and store.get(key)[0] != body:
        raise LostRaceError(
            "this run has written other results before", remedy="Start a new run", key=key, store=store.url
        )


def connect(
    store: Objects,
    releases: Iterable[Mapping[str, Any]] = (),
    model: str | None = None,
    warn: Warn | None = None,
    ledger: pa.Table | None = None,
) -> duckdb.DuckDBPyConnection:
    """An in-memory database with views over the results; SQL in it is shut off from files and network.

    Tables: `rows`, `published` and `latest` (ROWS and a `date`), `verdicts`, `nights`, `releases`. Values of
    `releases` are as RELEASES has them; they say which runs were published. Of `model` alone if it is given.
    Functions: `wilson_low(passed, asked)` and `wilson_high`, the ends of a share's 95 % interval.
    `ledger` is a table of that name, when it is given.

    warn   every file is read first, and this is told of those that are damaged, which are left out. Where it
           is None, files in a directory are read as they are needed, and damage is an error of the question
    """
    connection = duckdb.connect(
        config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    )
    connection.execute("set timezone = 'UTC'")
    connection.register("stored_rows", _opened(store, ROWS_PREFIX, ROWS, model, warn))
    connection.register("verdicts", _opened(store, VERDICTS_PREFIX, VERDICTS, model, warn))
    connection.register("nights", _opened(store, NIGHTS_PREFIX, NIGHTS, model, warn))
    connection.register("releases", pa.Table.from_pylist([_typed(row) for row in releases], schema=RELEASES))
    if ledger is not None:
        connection.register("ledger", ledger)
    for name in (*(f"view_{view}" for view in VIEWS), *(f"macro_{macro}" for macro in MACROS)):
        connection.execute(sql(name))
    connection.execute(f"set memory_limit = '{MOST_MEMORY}'")
    connection.execute("set temp_directory = ''")
    # In this order: a locked configuration cannot be changed by SQL, not even to lock more.
    for setting in ("python_enable_replacements", "enable_external_access"):
        connection.execute(f"set {setting} = false")
    connection.execute("set lock_configuration = true")
    return connection


def query(connection: duckdb.DuckDBPyConnection, text: str, **parameters: object) -> pa.Table:
    """The answer to one statement that only reads. Raises UsageError, which says what is wrong with it.

    A question may take _MOST_S seconds and MOST_MEMORY; its answer may have MOST_ANSWER bytes.
    """
    try:
        statements = duckdb.extract_statements(text)
        if len(statements) != 1 or statements[0].type not in _READS:
            raise UsageError("this is not one SELECT", remedy="Ask one question at a time, and only read")
        with _timed(connection):
            return _bounded(connection.sql(text, params=parameters or None))
    except duckdb.InterruptException:
        raise UsageError(
            f"the question took longer than {_MOST_S:.0f} s", remedy="Ask for less: name a model or a release"
        ) from None
    except duckdb.OutOfMemoryException:
        raise UsageError(
            f"the question needs more than {MOST_MEMORY}", remedy="Ask for less: name a model or a release"
        ) from None
    except (duckdb.Error, pa.ArrowException, OSError) as fault:
        first = (str(fault).strip() or type(fault).__name__).splitlines()[0]
        raise UsageError(
            "the SQL does not run",
            remedy=f"{first}. Tables are: rows, published, latest, verdicts, nights, releases, ledger",
        ) from None


@contextmanager
def _timed(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Interrupt what the connection does when the block takes too long."""
    timer = threading.Timer(_MOST_S, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _bounded(answer: duckdb.DuckDBPyRelation) -> pa.Table:
    """The answer as a table, batch by batch. Raises UsageError when it is too large to hold."""
    reader = answer.to_arrow_reader(8_192)
    batches, size = [], 0
    for batch in reader:
        batches.append(batch)
        size += batch.nbytes
        if size > MOST_ANSWER:
            raise UsageError(
                f"the answer has more than {MOST_ANSWER >> 20} MB", remedy="Ask for less, or add a LIMIT"
            )
    return pa.Table.from_batches(batches, reader.schema)


def _opened(
    store: Objects, prefix: str, schema: pa.Schema, model: str | None, warn: Warn | None
) -> pa.Table | ds.Dataset:
    """All files below `prefix`, or those of one model: lazily where they lie in a directory, else read now.

    A column that a file of an older version lacks is null.
    """
    wanted = "/" if model is None else f"/model={model}/"
    keys = [i.key for i in store.list(prefix) if i.key.endswith(".parquet") and wanted in i.key]
    if not keys:
        return schema.empty_table()
    root = Path(store.url)
    if root.is_dir() and warn is None:
        return ds.dataset([str(root / key) for key in keys], schema=schema, format="parquet")
    with ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(lambda key: _read(store, key, schema, warn or warnings.warn), keys)
        return pa.concat_tables([schema.empty_table(), *found])


def _read(store: Objects, key: str, schema: pa.Schema, warn: Warn) -> pa.Table:
    """One file; none of its rows when it is damaged, which is told."""
    try:
        return table_of(store.get(key)[0], schema)
    except UnreadableError as fault:
        warn(f"{key}: these results cannot be read and are left out: {fault}")
        return schema.empty_table()


def _typed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A release's row; what is not as RELEASES has it is not known."""
    kinds = {pa.string(): str, pa.int64(): int, pa.int32(): int}
    return {
        field.name: value if type(value := row.get(field.name)) is kinds.get(field.type) else None
        for field in RELEASES
    }
