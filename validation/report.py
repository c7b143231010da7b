"""The report: one self-contained page about one release, for people who were not there.

The page loads nothing and runs one script of ours, by its digest: a content security policy forbids all
else, so that even text which escaped the escaping could not execute.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import duckdb
from jinja2 import Environment, StrictUndefined

from corrigenda.validation.charts import Chart, layer_chart, line_chart, margin_chart
from corrigenda.validation.queries import sql

MOST_CORRECTIONS = 5_000  # rows of the table; the page stays usable on a phone
MOST_PROBES = 1_000

_KINDS = {
    "rewrite": "Efficacy: edit prompts",
    "paraphrase": "Generalisation: paraphrases",
    "locality": "Locality: neighbours",
}
_FIGURES = {
    "corrections": ("corrections", "{:.0f}"),
    "efficacy": ("efficacy", "{:.1%}"),
    "paraphrase": ("paraphrase", "{:.1%}"),
    "locality_drop": ("locality drop", "{:.2%}"),
    "fixed_drop": ("fixed probes drop", "{:.2%}"),
    "perplexity_rise": ("perplexity rise", "{:+.2%}"),
    "drift_nats": ("drift, nats", "{:.4f}"),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """The release that a report is about.

    gates        of its manifest: `gates` and `figures`, as Verdict.as_json has them
    layers       of its manifest: scores, kept, pick, method, warnings; None for a layer set by hand
    quarantined  corrections that were sent out: correction_id, prompt, target_new, state, reason, came_back
                 (prompt and expected of the probes that came right without it)
    provenance   label -> value, in the order in which they are shown
    """

    model: str
    number: int
    created_at: str
    layer: int | None = None
    gates: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Any] | None = None
    quarantined: Sequence[Mapping[str, Any]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def render(connection: duckdb.DuckDBPyConnection, subject: Subject) -> str:
    """The page, as HTML. `connection` is from results.connect and knows the release as published."""
    asked = {"model": subject.model, "release": subject.number}
    history = _rows(connection, "results_history", model=subject.model)
    page = {
        "subject": subject,
        "gates": [_shown_gate(gate) for gate in subject.gates.get("gates", ()) if _is_told(gate)],
        "figures": _shown_figures(subject.gates.get("figures", {})),
        "layers": _layers(subject.layers),
        "margins": _margins(_rows(connection, "report_margins", **asked)),
        "drift": _drift(_rows(connection, "results_drift", model=subject.model), subject.number),
        "history": [row for row in history if row["release"] <= subject.number],
        "corrections": _rows(connection, "report_corrections", limit=MOST_CORRECTIONS, **asked),
        "probes": _rows(connection, "report_probes", limit=MOST_PROBES, **asked),
        "regressions": _rows(connection, "report_regressions", **asked),
    }
    return _template(page)


def _rows(connection: duckdb.DuckDBPyConnection, query: str, **asked: object) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = connection.sql(sql(query), params=asked).to_arrow_table().to_pylist()
    return rows


def _is_told(gate: Mapping[str, Any]) -> bool:
    """Who brings no fixed probes need not read of them."""
    return gate["gate"] != "fixed_drop" or gate["figure"] is not None


def _shown_gate(gate: Mapping[str, Any]) -> dict[str, Any]:
    label, form = _FIGURES.get(gate["gate"], (gate["gate"], "{:.4g}"))
    at_least = gate["gate"] in ("efficacy", "paraphrase")
    figure = gate["figure"]
    return {
        "label": label,
        "figure": "not measured" if figure is None else form.format(figure),
        "bound": ("at least " if at_least else "at most ") + form.format(gate["threshold"]).lstrip("+"),
        "passed": gate["passed"],
    }


def _shown_figures(figures: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """What the gates do not show already: the counts, and CounterFact's scores."""
    wanted = {
        "corrections": ("active corrections", "{:,.0f}"),
        "probes": ("probes", "{:,.0f}"),
        "unchanged": ("neighbours answered word for word as before", "{:.1%}"),
        "es": ("ES, CounterFact's efficacy score", "{:.1%}"),
        "ps": ("PS, its paraphrase score", "{:.1%}"),
        "ns": ("NS, its neighbourhood score", "{:.1%}"),
        "perplexity_before": ("perplexity of the base", "{:.3f}"),
        "perplexity": ("perplexity of the release", "{:.3f}"),
    }
    known = {name: figures.get(name) for name in wanted}
    return [
        (label, form.format(known[name])) for name, (label, form) in wanted.items() if known[name] is not None
    ]


def _layers(layers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not layers or not layers.get("scores"):
        return None
    scores, pick = [float(score) for score in layers["scores"]], int(layers["pick"])
    kept = layers.get("kept") or [True] * len(scores)
    return {**layers, "chart": layer_chart(scores, kept, pick), "listed": list(enumerate(scores))}


def _margins(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    charts = []
    for kind, title in _KINDS.items():
        sides: dict[str, dict[int, int]] = {"before": {}, "after": {}}
        for row in rows:
            if row["kind"] == kind:
                sides[row["side"]][row["bin"]] = row["probes"]
        if any(sides.values()):
            charts.append(margin_chart(title, **sides))
    return charts


def _drift(rows: Sequence[Mapping[str, Any]], number: int) -> list[Chart]:
    past = [row for row in rows if row["release"] <= number]
    if not past:
        return []
    nats = [(row["release"], row["drift_nats"]) for row in past]
    rise = [(row["release"], 100 * row["perplexity_rise"]) for row in past]
    return [
        line_chart("KL from the base, nats a token", nats),
        line_chart("Rise of perplexity over the base, per cent", rise),
    ]


def _template(page: Mapping[str, Any]) -> str:
    folder = resources.files("corrigenda.validation")
    style, script, text = (
        (folder / f"report.{end}").read_text(encoding="utf-8") for end in ("css", "js", "html")
    )
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return environment.from_string(text).render(style=style, script=script, policy=policy, **page).lstrip()


def _digest(text: str) -> str:
    """Names an inline script or style in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
