"""What every night leaves behind, whatever came of it: one row in the store.

It is also how a run learns the outcome of a night that another process had. Nothing of it travels through an
orchestrator, which may lose it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corrigenda.errors import NotFoundError
from corrigenda.pipeline.clock import Clock
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.stored import object_of, rows_of
from corrigenda.validation.tables import NIGHTS, NIGHTS_PREFIX

Outcome = dict[str, Any]
# Ends of a night with which nothing is wrong.
WELL = frozenset({"published", "unchanged", "held"})


def write(store: ObjectStore, run_id: str, outcome: Outcome, clock: Clock) -> Outcome:
    """Put a night on record; the outcome with `seconds` by stage. The first record of a run and model
    stays."""
    kept = {"seconds": {name: round(spent, 3) for name, spent in clock.seconds.items()}} | outcome
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist([_row(run_id, kept, clock.began)], schema=NIGHTS)
    pq.write_table(table, sink, compression="zstd")
    store.create(key(run_id, outcome["model"]), sink.getvalue().to_pybytes())
    return kept


def read(store: ObjectStore, run_id: str, model: str) -> Outcome | None:
    """The outcome that a run left for a model; None when it left none."""
    with suppress(NotFoundError, ValueError):  # also a record without a row
        (row,) = rows_of(store.get(key(run_id, model))[0], NIGHTS)
        return object_of(row["outcome"] or "")
    return None


def latest(store: ObjectStore, models: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """The models' newest records, newest first, back to the last night that went well: rows of NIGHTS.

    Runs that found a model busy are left out: the night was another run's.
    """
    names: dict[str, list[str]] = {model: [] for model in models}
    for info in store.list(NIGHTS_PREFIX):
        model = PurePosixPath(info.key).parent.name.removeprefix("model=")
        if model in names:
            names[model].append(info.key)
    return {
        model: list(_back_to_a_good_one(store, sorted(keys, reverse=True))) for model, keys in names.items()
    }


def _back_to_a_good_one(store: ObjectStore, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    for name in keys:
        try:
            (row,) = rows_of(store.get(name)[0], NIGHTS)
        except ValueError:
            continue  # a record that is damaged tells nothing; the others do
        if row["status"] != "busy":
            yield row
        if row["status"] in WELL:
            return


def key(run_id: str, model: str) -> str:
    """Where the record lies; a run's identity begins with its day."""
    day = f"{run_id[:4]}-{run_id[4:6]}-{run_id[6:8]}"
    return f"{NIGHTS_PREFIX}{day}/model={model}/{run_id}.parquet"


def _row(run_id: str, outcome: Outcome, began: datetime) -> dict[str, Any]:
    ended = datetime.now(UTC)
    counts, edits = outcome.get("counts", {}), outcome.get("edits", {})
    return {
        **{name: outcome.get(name) for name in ("model", "status", "release", "error", "bytes")},
        "run_id": run_id,
        "host": socket.gethostname(),
        "started_at": began,
        "ended_at": ended,
        "duration_s": (ended - began).total_seconds(),
        "exit_code": outcome.get("exit_code", 0),
        "new": outcome.get("taken_in", {}).get("new"),
        **{name: counts.get(name) for name in ("active", "quarantined", "rejected")},
        **{name: edits.get(name) for name in ("computed", "cached", "short")},
        "regressions": len(outcome["regressions"]) if "regressions" in outcome else None,
        "seconds": list(outcome["seconds"].items()),
        "outcome": json.dumps(outcome, default=str, ensure_ascii=False),
    }
