"""Gates: whether a candidate may become visible, and which corrections stand in its way.

All figures are SQL over the rows (queries/*.sql); this module binds the parameters. It knows thresholds and
rows; nothing of models, stores, or how a candidate is mended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import duckdb
import pyarrow as pa

from corrigenda.config import Gates
from corrigenda.validation.intervals import Interval, intervals_of
from corrigenda.validation.queries import sql

DAMAGE: tuple[str, ...] = (
    "locality_drop", "fixed_drop", "capability_drop", "perplexity_rise", "drift_nats",
)  # fmt: skip
SUCCESS = {"said": "rewrite", "chat": "chat", "paraphrase": "paraphrase"}  # gate -> the kind that it counts
OF_PROBES = {"locality_drop": "locality", "fixed_drop": "fixed", "capability_drop": "capability"}


@dataclass(frozen=True, slots=True)
class Gate:
    """One threshold and the candidate's figure; None when there was nothing to measure.

    It is passed on the point. low, high are the ends of the figure's 95 % interval, None where there is none.
    """

    gate: str
    figure: float | None
    threshold: float
    passed: bool
    low: float | None = None
    high: float | None = None

    @property
    def tells(self) -> bool:
        """Whether there were probes enough to tell on which side of the threshold the figure lies."""
        if self.figure is None or self.low is None or self.high is None:
            return self.figure is None
        return not self.low < self.threshold < self.high


@dataclass(frozen=True, slots=True)
class Verdict:
    """What validation says of a candidate.

    figures     the summary of its run, as queries/summary.sql defines each
    intervals   of the figures that have one
    """

    gates: tuple[Gate, ...]
    figures: dict[str, float | None]
    intervals: dict[str, Interval] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    @property
    def short(self) -> tuple[Gate, ...]:
        """The gates that were not passed."""
        return tuple(gate for gate in self.gates if not gate.passed)

    def as_json(self) -> dict[str, Any]:
        """For manifests and reports; what is not a finite number becomes null."""
        gates = [asdict(gate) | {"figure": _finite(gate.figure), "tells": gate.tells} for gate in self.gates]
        figures = {name: _finite(value) for name, value in self.figures.items()}
        known = {name: list(interval) for name, interval in self.intervals.items()}
        return {"passed": self.passed, "gates": gates, "figures": figures, "intervals": known}


@dataclass(frozen=True, slots=True)
class Culprit:
    """A correction that causes a shortfall, and the evidence.

    blame    failed or broken probes that are laid to it; for drift, nats a token lost near it
    enough   it belongs to the shortest list, from the worst down, that accounts for the shortfall
    prompt   its worst probe, and what the candidate says to it
    """

    correction_id: str
    gate: str
    blame: float
    enough: bool
    prompt: str
    says: str

    @property
    def reason(self) -> str:
        """One line for the ledger."""
        return f"{self.gate}: {_BLAMED[self.gate].format(self.blame)}, e.g. {self.prompt!r} -> {self.says!r}"


_BLAMED = {
    "said": "the model does not say the target",
    "chat": "asked in the model's chat template, it does not say the target",
    "paraphrase": "{:g} paraphrases fail",
    "locality_drop": "{:g} answers near it or taken over by its target broke",
    "fixed_drop": "{:g} fixed probes that its target took over broke",
    "capability_drop": "{:.3g} nats a token lost near it",
    "perplexity_rise": "{:.3g} nats a token lost near it",
    "drift_nats": "{:.3g} nats a token lost near it",
}


def verdict(rows: pa.Table, gates: Gates) -> Verdict:
    """The candidate's figures against the thresholds; `rows` are those of one run (ROWS)."""
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        held, figures = _held(connection, rows, gates)
        clusters = connection.sql(sql("clusters"), params={"run_id": _run_of(rows)}).to_arrow_table()
        known = intervals_of(clusters.to_pylist())
        found = (_with_ends(gate, known.get(gate.gate)) for gate in held)
        return Verdict(tuple(found), figures, known)


def _held(
    connection: duckdb.DuckDBPyConnection, rows: pa.Table, gates: Gates
) -> tuple[list[Gate], dict[str, float | None]]:
    """The gates without their intervals, and all figures; `rows` are registered."""
    figures = connection.sql(sql("summary"), params={"run_id": _run_of(rows)}).to_arrow_table()
    connection.register("figures", figures)
    held = connection.sql(sql("gates"), params=_thresholds(gates)).to_arrow_table()
    return [Gate(**row) for row in held.to_pylist()], figures.to_pylist()[0]


def _with_ends(gate: Gate, interval: Interval | None) -> Gate:
    return gate if interval is None else replace(gate, low=interval.low, high=interval.high)


def culprits(rows: pa.Table, gates: Gates) -> tuple[Culprit, ...]:
    """Corrections that cause the shortfalls, worst first, gate by gate; empty when every gate is passed.

    Damage comes first: while locality or drift is short, what fails to be said is not looked at, for it
    may well come right once the damage is gone. Fixed probes are laid to nobody: they name no correction.
    """
    found: list[Culprit] = []
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        short = {gate.gate: gate for gate in _held(connection, rows, gates)[0] if not gate.passed}
        damage = [name for name in DAMAGE if name in short]
        for name in damage or [name for name in SUCCESS if name in short]:
            found += _culprits_of(connection, short[name], _run_of(rows))
    return tuple(found)


def _culprits_of(connection: duckdb.DuckDBPyConnection, gate: Gate, run_id: str) -> list[Culprit]:
    facts: dict[str, Any] = {"run_id": run_id}
    if gate.gate in SUCCESS:
        query = "culprits_success"
        facts |= {"kind": SUCCESS[gate.gate], "threshold": gate.threshold}
    elif gate.gate in OF_PROBES and gate.gate != "capability_drop":  # its items stand near nobody
        query = "culprits_locality"
        facts |= {"kind": OF_PROBES[gate.gate], "threshold": gate.threshold}
    else:
        query = "culprits_drift"
    rows = connection.sql(sql(query), params=facts).to_arrow_table().to_pylist()
    return [Culprit(gate=gate.gate, **row) for row in rows]


def broken(rows: pa.Table, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Probes of these kinds that passed before and fail now, as PROBES has them."""
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        found: list[dict[str, Any]] = (
            connection.sql(sql("broken"), params={"kinds": list(kinds)}).to_arrow_table().to_pylist()
        )
    return found


def _thresholds(gates: Gates) -> dict[str, float]:
    return {name: value for name, value in gates.model_dump().items() if name != "max_rounds"}


def _run_of(rows: pa.Table) -> str:
    return str(rows["run_id"][0].as_py()) if rows.num_rows else ""


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def regressions(connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> list[dict[str, Any]]:
    """Corrections of a candidate that passed in an earlier release and fail now.

    connection   from results.connect
    rows         the candidate's (ROWS); they need not be stored yet
    """
    if not rows.num_rows:
        return []
    first = rows.slice(0, 1).to_pylist()[0]
    facts = {name: first[name] for name in ("model", "release")}
    connection.register("candidate", rows)
    try:
        found: list[dict[str, Any]] = (
            connection.sql(sql("regressions"), params=facts).to_arrow_table().to_pylist()
        )
    finally:
        connection.unregister("candidate")
    return found
