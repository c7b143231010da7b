"""SQL over validation results: which releases it sees, and the questions that are ready."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import duckdb
import pyarrow as pa

from corrigenda.api.opened import store_of
from corrigenda.api.values import ProbeResult
from corrigenda.config import FleetConfig
from corrigenda.errors import CorruptBlobError, NotFoundError, UsageError
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import history, manifests, refs
from corrigenda.validation import results
from corrigenda.validation.queries import sql

Warn = Callable[[str], object]
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
    return results.connect(store, listed, warn=warn if checked else None)


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
