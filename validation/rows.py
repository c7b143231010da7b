"""Validation rows: one for each probe of a run, with the scores before and after and the verdict.

What a verdict means is written once, in queries/judge.sql.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

import duckdb
import pyarrow as pa

from corrigenda.validation.probes import Probe
from corrigenda.validation.queries import sql
from corrigenda.validation.tables import DRIFT, PROBES, ROWS


def judge(
    probes: Sequence[Probe],
    before: pa.Table,
    after: pa.Table,
    drift: pa.Table | None = None,
    *,
    run_id: str,
    model: str,
    scored_at: datetime,
    release: int | None = None,
) -> pa.Table:
    """Rows of one run, as the table ROWS.

    before, after   SCORES of `probes`, in their order, under the base and under the candidate
    drift           the table DRIFT
    release         the number under which the candidate is to be published
    """
    facts = {"run_id": run_id, "release": release, "model": model, "scored_at": scored_at}
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("probes", _placed(_probe_table(probes)))
        connection.register("before", _placed(before))
        connection.register("after", _placed(after))
        connection.register("drift", DRIFT.empty_table() if drift is None else drift)
        made = connection.sql(sql("judge"), params=facts).to_arrow_table()
    return made.select(ROWS.names).cast(ROWS)


def unpublished(rows: pa.Table) -> pa.Table:
    """The same rows as evidence of a candidate that was not published."""
    place = ROWS.get_field_index("release")
    return rows.set_column(place, ROWS.field("release"), pa.nulls(rows.num_rows, pa.int32()))


def _probe_table(probes: Sequence[Probe]) -> pa.Table:
    return pa.Table.from_pylist([asdict(probe) | {"form": probe.form} for probe in probes], schema=PROBES)


def _placed(table: pa.Table) -> pa.Table:
    return table.append_column("place", pa.array(range(table.num_rows), pa.int64()))
