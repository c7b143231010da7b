"""The fleet's state for machines that watch: what is wrong, and metrics in Prometheus' text format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from corrigenda.errors import UsageError

if TYPE_CHECKING:
    from corrigenda.api.values import FleetStatus, ModelStatus

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
METRICS = {
    "corrigenda_release": "number of the release that `latest` points to",
    "corrigenda_corrections": "corrections in the ledger, by state",
    "corrigenda_waiting_rows": "rows of the queue that the next night takes in",
    "corrigenda_held": "1 while the release is held",
    "corrigenda_last_night_ok": "1 when the last night went well",
    "corrigenda_last_night_timestamp_seconds": "when the last night ended",
    "corrigenda_last_night_duration_seconds": "how long the last night took",
    "corrigenda_last_good_night_timestamp_seconds": "when a night last went well",
    "corrigenda_rejected_rows": "rows of the queue that are no corrections",
    "corrigenda_damaged": "1 for a model whose present release cannot be read",
}


def age(text: str) -> timedelta:
    """`90m`, `26h` or `2d`. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text.strip())
    if found is None:
        raise UsageError("this is no age", remedy="Write 90m, 26h or 2d", value=text)
    return timedelta(**{_UNITS[found[2]]: float(found[1])})


def amiss(found: FleetStatus, longest: timedelta, now: datetime | None = None) -> Iterator[str]:
    """One line for each thing that somebody should look at; a model that is held is not late."""
    now = now or datetime.now(UTC)
    yield from (f"{name}: {fault}" for name, fault in found.damaged.items())
    for one in found.models:
        night = one.night
        if night is None:
            yield f"{one.model}: no night is on record"
        elif night.went_well_at is None:
            yield f"{one.model}: no night went well; the last one: {night.status}, {night.error}"
        elif now - night.went_well_at > longest:
            yield f"{one.model}: no night went well for {told(now - night.went_well_at)}; {_last(one)}"
        elif night.status == "failed":
            yield f"{one.model}: {_last(one)}"


def _last(one: ModelStatus) -> str:
    assert one.night is not None
    return f"the last one: {one.night.status}" + (f", {one.night.error}" if one.night.error else "")


def told(span: timedelta) -> str:
    """An age in one unit."""
    minutes = int(span.total_seconds() // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 60 * 72 else f"{minutes // (60 * 24)} d"


def prometheus(found: FleetStatus) -> str:
    """All metrics, for node_exporter's textfile collector."""
    samples: dict[str, list[str]] = {name: [] for name in METRICS}
    for name, labels, value in _samples(found):
        quoted = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        samples[name].append(f"{name}{{{quoted}}} {value:.15g}" if quoted else f"{name} {value:.15g}")
    lines = []
    for name, text in METRICS.items():
        if samples[name]:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", *samples[name]]
    return "\n".join(lines) + "\n"


def _samples(found: FleetStatus) -> Iterator[tuple[str, dict[str, str], float]]:
    yield "corrigenda_rejected_rows", {}, len(found.rejects)
    for name in found.damaged:
        yield "corrigenda_damaged", {"model": name}, 1
    for one in found.models:
        model = {"model": one.model}
        if one.latest is not None:
            yield "corrigenda_release", model, one.latest
        for state, count in one.ledger.items():
            yield "corrigenda_corrections", model | {"state": state}, count
        yield "corrigenda_waiting_rows", model, one.waiting_rows
        yield "corrigenda_held", model, one.held is not None
        if night := one.night:
            yield "corrigenda_last_night_ok", model, night.status != "failed"
            yield "corrigenda_last_night_timestamp_seconds", model, night.ended_at.timestamp()
            yield "corrigenda_last_night_duration_seconds", model, night.duration_s
            if night.went_well_at:
                yield "corrigenda_last_good_night_timestamp_seconds", model, night.went_well_at.timestamp()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
