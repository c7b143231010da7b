"""A night in Markdown and in table rows: what people read in the orchestrator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from corrigenda.pipeline.diary import Outcome


def of_model(came: Outcome) -> str:
    """A model's night: release, gates, some corrections before and after, and who was sent out and why."""
    return "\n".join(_lines(came)) + "\n"


def row(came: Outcome) -> dict[str, Any]:
    """A model's night as a row of the fleet's table."""
    counts = came.get("counts", {})
    spent = sum(came.get("seconds", {}).values())
    return {
        **{name: came.get(name) for name in ("model", "status", "release", "layer")},
        "new": came.get("taken_in", {}).get("new"),
        "active": counts.get("active"),
        "quarantined": counts.get("quarantined"),
        "seconds": round(spent, 1),
        "error": came.get("error"),
    }


def counted(models: Sequence[Outcome]) -> dict[str, int]:
    """How many models came to which end, most first."""
    return dict(Counter(came["status"] for came in models).most_common())


def _lines(came: Outcome) -> Iterator[str]:
    name, release = came["model"], came.get("release")
    yield f"# {name}: {came['status']}" + (f", release {release}" if release is not None else "")
    if error := came.get("error"):
        yield f"\n> {_cell(error)}"
    if by := came.get("by"):
        yield f"\nAnother run is at work on it: `{by}`."
    if why := came.get("held"):
        yield f"\nHeld at release {release}: {_cell(why)}"
    if gates := came.get("gates", {}).get("gates"):
        yield from _table(
            "Gates",
            ("gate", "figure", "threshold", "passed"),
            (
                (g["gate"], _number(g["figure"]), _number(g["threshold"]), "yes" if g["passed"] else "**no**")
                for g in gates
            ),
        )
    if samples := came.get("samples"):
        yield from _table(
            "Some corrections",
            ("prompt", "before", "after", "wanted"),
            ((s["prompt"], s["says_before"], s["says_after"], s["expected"]) for s in samples),
        )
    if sent_out := came.get("quarantined"):
        yield from _table(
            "Quarantined", ("correction", "why"), ((q["correction_id"], q["why"]) for q in sent_out)
        )
    if worse := came.get("regressions"):
        yield from _table(
            "Right before, wrong now",
            ("correction", "prompt", "says"),
            ((w["correction_id"], w["prompt"], w["says"]) for w in worse),
        )
    if release is not None:
        yield f"\nThe whole report: `corrigenda report {name}@{release}`"


def _table(heading: str, columns: Sequence[str], rows: Iterator[Sequence[object]]) -> Iterator[str]:
    yield f"\n## {heading}\n"
    yield f"| {' | '.join(columns)} |"
    yield "|" + " --- |" * len(columns)
    yield from (f"| {' | '.join(_cell(value) for value in row)} |" for row in rows)


def _cell(value: object) -> str:
    """Text that a table's cell can hold, whatever a correction says."""
    text = " ".join(str(value).split()).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("<", "&lt;")[:200]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
