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
from corrigenda.validation.gates import SUCCESS
from corrigenda.validation.queries import sql

MOST_CORRECTIONS = 5_000  # rows of the table; the page stays usable on a phone
MOST_PROBES = 1_000

_KINDS = {
    "rewrite": "Edit prompts",
    "paraphrase": "Generalisation: paraphrases",
    "locality": "Locality: neighbours",
}
_FIGURES = {
    "corrections": ("corrections", "{:.0f}"),
    "said": ("said, plain prompts", "{:.1%}"),
    "chat": ("said in chat", "{:.1%}"),
    "paraphrase": ("paraphrases likelier", "{:.1%}"),
    "locality_drop": ("locality drop", "{:.2%}"),
    "fixed_drop": ("fixed probes drop", "{:.2%}"),
    "capability_drop": ("capability drop", "{:.2%}"),
    "perplexity_rise": ("perplexity rise", "{:+.2%}"),
    "drift_nats": ("drift, nats", "{:.4f}"),
}


# How a fact is asked for: what it is called, the share that is said, the share of old answers.
_FORMS = (
    ("plain prompt", "said", "said_old"),
    ("paraphrase", "said_paraphrase", ""),
    ("question", "question", ""),
    ("chat", "chat", "chat_old"),
)


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
        "forms": _forms(subject.gates),
        "already": int(subject.gates.get("figures", {}).get("already_true") or 0),
        "unasked": _unasked(subject.gates.get("figures", {})),
        "figures": _shown_figures(subject.gates),
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
    """Who brings no fixed probes, or has a model without chats, need not read of them."""
    return gate["gate"] not in ("fixed_drop", "chat", "capability_drop") or gate["figure"] is not None


def _shown_gate(gate: Mapping[str, Any]) -> dict[str, Any]:
    label, form = _FIGURES.get(gate["gate"], (gate["gate"], "{:.4g}"))
    at_least = gate["gate"] in SUCCESS
    figure = gate["figure"]
    return {
        "label": label,
        "figure": "not measured" if figure is None else form.format(figure),
        "bound": ("at least " if at_least else "at most ") + form.format(gate["threshold"]).lstrip("+"),
        "passed": gate["passed"],
        "interval": _interval(form, (gate["low"], gate["high"])) if gate.get("low") is not None else "",
        "tells": gate.get("tells", True),
    }


def _interval(form: str, ends: Sequence[float] | None) -> str:
    """A 95 % interval as people read it; empty where there is none."""
    return "" if not ends else f"{form.format(ends[0])} to {form.format(ends[1])}"


def _forms(gates: Mapping[str, Any]) -> list[dict[str, str]]:
    """What greedy decoding says in each form of asking, before and after, and how often the old answer."""
    figures, intervals = gates.get("figures", {}), gates.get("intervals", {})
    rows = []
    for label, name, old in _FORMS:
        if figures.get(name) is not None:
            shown = {
                side: f"{figures[key]:.1%}"
                for side, key in (("before", f"{name}_before"), ("after", name), ("old", old))
                if figures.get(key) is not None
            }
            interval = _interval("{:.0%}", intervals.get(name))
            rows.append({"label": label, "before": "–", "old": "–", "interval": interval} | shown)
    return rows


def _unasked(figures: Mapping[str, float | None]) -> int:
    """Corrections of which no question could be asked."""
    every, asked = figures.get("corrections"), figures.get("with_question")
    return 0 if every is None or asked is None else int(every - asked)


def _shown_figures(gates: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the gates do not show already: the counts, and CounterFact's scores."""
    figures, intervals = gates.get("figures", {}), gates.get("intervals", {})
    wanted = {
        "corrections": ("active corrections", "{:,.0f}"),
        "probes": ("probes", "{:,.0f}"),
        "chat_exact": ("chat answers that are the target and nothing else", "{:.1%}"),
        "unchanged": ("neighbours answered word for word as before", "{:.1%}"),
        "es": ("ES, CounterFact's efficacy score", "{:.1%}"),
        "ps": ("PS, its paraphrase score", "{:.1%}"),
        "ns": ("NS, its neighbourhood score", "{:.1%}"),
        "perplexity_before": ("perplexity of the base", "{:.3f}"),
        "perplexity": ("perplexity of the release", "{:.3f}"),
    }
    known = {name: figures.get(name) for name in wanted}
    return [
        (label, form.format(known[name]), _interval(form, intervals.get(name)))
        for name, (label, form) in wanted.items()
        if known[name] is not None
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
