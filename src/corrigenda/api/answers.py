"""SQL over validation results: which releases it sees, and the questions that are ready."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from corrigenda.api.opened import store_of
from corrigenda.api.values import ProbeResult
from corrigenda.config import FleetConfig
from corrigenda.errors import CorruptBlobError, NotFoundError, UsageError
from corrigenda.facts import Warn
from corrigenda.storage.corrections.schemas import LEDGER
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import history, manifests, refs, snapshots
from corrigenda.validation import results, tables
from corrigenda.validation.queries import sql

READY = ("corrections", "gates", "drift", "history", "regressions")  # results_*.sql


def connect(
    fleet: FleetConfig, model: str | None = None, warn: Warn = warnings.warn, *, checked: bool = False
) -> duckdb.DuckDBPyConnection:
    """Results of the fleet's store, and of releases those behind `latest`: SQL calls these published.

    model   rows of this one only
    warn    told of models whose releases are damaged; they do not hide the others
    checked read every file of results first; `warn` is told of those that are damaged, too

    Raises NotFoundError for a model that neither store nor fleet knows.
    """
    store = store_of(fleet, absent_ok=True)
    known = manifests.models(store)
    if model is not None and model not in known:
        fleet.model(model)
    listed = [row for name in known for row in _releases(store, name, warn)]
    return results.connect(store, listed, warn=warn if checked else None, ledger=_ledgers(store, known))


def _ledgers(store: ObjectStore, models: Sequence[str]) -> pa.Table:
    """Every version of every correction with its state, of the published releases: `ledger_schema`."""
    tables = [_ledger_of(store, name) for name in models]
    return pa.concat_tables(
        [ledger_schema().empty_table(), *(table for table in tables if table is not None)]
    )


def _ledger_of(store: ObjectStore, model: str) -> pa.Table | None:
    """None of a model whose books are damaged: `_releases` has said so."""
    with suppress(CorruptBlobError, NotFoundError):
        now = snapshots.current(store, model)
        rows = pq.read_table(BytesIO(now.ledger.to_parquet()))
        names = ["selector" if name == "model" else name for name in rows.column_names]
        told = rows.rename_columns(names)
        release = now.release.number if now.release else None
        whose = {"model": pa.repeat(pa.scalar(model), len(told)), "release": pa.nulls(len(told), pa.int32())}
        if release is not None:
            whose["release"] = pa.repeat(pa.scalar(release, pa.int32()), len(told))
        columns = whose | {name: told[name] for name in told.column_names}
        return pa.table(
            {field.name: columns[field.name] for field in ledger_schema()}, schema=ledger_schema()
        )
    return None


def ledger_schema() -> pa.Schema:
    """The table `ledger`: a release's ledger, with whose it is."""
    whose = [
        pa.field("model", pa.string(), metadata={"doc": "the model's name in the fleet"}),
        pa.field("release", pa.int32(), metadata={"doc": "the published release that holds it"}),
    ]
    rest = [field.with_name("selector") if field.name == "model" else field for field in LEDGER]
    return pa.schema([*whose, *(field.with_nullable(True) for field in rest)])


def meanings() -> pa.Table:
    """Every table and column that SQL sees, with its type and what it means."""
    schemas = {
        **dict.fromkeys(("rows", "published", "latest"), tables.ROWS),
        "verdicts": tables.VERDICTS,
        "nights": tables.NIGHTS,
        "releases": tables.RELEASES,
        "ledger": ledger_schema(),
    }
    return pa.Table.from_pylist(
        [
            {"table": name, "column": field.name, "type": str(field.type), "meaning": _doc(field)}
            for name, schema in schemas.items()
            for field in schema
        ]
    )


def _doc(field: pa.Field) -> str:
    return str((field.metadata or {}).get(b"doc", b"").decode())


def corrections(
    fleet: FleetConfig, state: str | None, model: str | None, warn: Warn = warnings.warn
) -> pa.Table:
    """The corrections of the published releases, of one state and one model or of all."""
    with connect(fleet, model, warn) as connection:
        return results.query(connection, sql("corrections"), state=state, model=model)


def _releases(store: ObjectStore, model: str, warn: Warn) -> Iterator[dict[str, Any]]:
    try:
        ref = refs.read(store, model, "latest").ref
        behind = history.ancestry(store, ref.manifest if ref else None)
        yield from (results.listed(release) for release in behind)
    except (CorruptBlobError, NotFoundError) as fault:
        warn(f"{model}: {fault}")


def query(fleet: FleetConfig, text: str, warn: Warn = warnings.warn, **parameters: object) -> pa.Table:
    """One SELECT in DuckDB's SQL; `parameters` are its $names. Raises UsageError for what cannot be read."""
    return _asked(fleet, None, warn, text, parameters)


def ready(fleet: FleetConfig, what: str, model: str | None, warn: Warn = warnings.warn) -> pa.Table:
    """One of the `READY` questions, of one model or of all."""
    return _asked(fleet, model, warn, sql(f"results_{what}"), {"model": model})


def probes_of(
    fleet: FleetConfig, correction_id: str, model: str | None, warn: Warn = warnings.warn
) -> tuple[ProbeResult, ...]:
    """Every probe of one correction through the releases."""
    asked = {"correction_id": correction_id, "model": model}
    rows = _asked(fleet, model, warn, sql("correction_probes"), asked).to_pylist()
    return tuple(map(ProbeResult.of, rows))


def _asked(
    fleet: FleetConfig, model: str | None, warn: Warn, text: str, parameters: Mapping[str, object]
) -> pa.Table:
    """The answer. Where it fails, it may be for a damaged file: then once more over those that are whole."""
    try:
        with connect(fleet, model, warn) as connection:
            return results.query(connection, text, **parameters)
    except UsageError as fault:
        damaged: list[str] = []
        with connect(fleet, model, damaged.append, checked=True) as connection:
            if not any(one.startswith(results.PREFIXES) for one in damaged):
                raise fault
            for one in damaged:
                warn(one)
            return results.query(connection, text, **parameters)
