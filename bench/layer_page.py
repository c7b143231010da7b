"""docs/golden-layers.md and its plots, from the study's results alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import layer_statistics as stats
from bench.layer_statistics import ALL, HALF_A, HALF_B, Floats, overall
from bench.layer_study import METRIC, LayerResult

COLOURS = {"proxy": "#808080", "counterfact": "#4878a8", "zsre": "#d8a018"}


@dataclass(frozen=True, slots=True)
class Sweep:
    """One set of facts of one model, at the layers that are done.

    single, batch   (facts, layers, 5)
    perplexity      (layers,) of held-out text after the batch, as a multiple of the base's
    """

    layers: list[int]
    single: Floats
    batch: Floats
    perplexity: Floats
    base: Floats | None
    seconds: dict[str, float]

    def m(self, kind: str = "batch") -> Floats:
        """(facts, layers): the mean of efficacy, paraphrase and neighbourhood."""
        return overall(getattr(self, kind), ALL)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """M (facts, layers) of batch edits at the layers that are done."""

    layers: list[int]
    m: Floats


def write(place: Path, docs: Path) -> Path:
    """Write the page and its plots into `docs`; returns the page."""
    docs.mkdir(parents=True, exist_ok=True)
    strength = json.loads((place / "strength.json").read_text(encoding="utf-8"))
    parts = [_opening(strength)]
    for home in sorted(path for path in place.iterdir() if path.is_dir()):
        parts += _model(home, docs)
    page = docs / "golden-layers.md"
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def _opening(strength: dict[str, Any]) -> str:
    return f"""# Golden layers: what was measured

Written by `make bench-layers` from its own results; run it again to renew this page.

**Question.** Is there one layer at which all facts are edited nearly as well as each at its own best layer
(the golden-layer hypothesis of arXiv 2602.20207), and which cheap score finds it for edits *in batches*?

**Method.** Up to {strength["facts"]} test facts per data set, edited at each layer alone (*single*) and all
in one solve (*batch*), as a night edits them, with its default settings (but the metric of a residual's
length from {METRIC.metric_tokens:,} tokens); covariance of {strength["background_tokens"]:,} WikiText
tokens. The outcome M is the mean of efficacy, paraphrase and neighbourhood. CounterFact: the new answer more
probable than the old (neighbourhood: the reverse). zsRE: share of the new answer's tokens that are the
likeliest ones (neighbourhood: share of the base's likeliest tokens that stay). Localizers see proxy facts
only; no subject is in two sets. Regret is what the best layer *on the test facts* has over the pick, in
points, with the 95 % bootstrap interval over facts, of each set and of all facts together: it is never
below zero, and some of it is noise of the best. A layer that no sweep has reached counts as its neighbour.
"""


def load_sweep(home: Path, which: str) -> Sweep | None:
    found = [LayerResult.read(path) for path in sorted((home / which).glob("layer-*.json"))]
    if not found:
        return None
    path = home / which / "base.json"
    base = LayerResult.read(path) if path.exists() else None
    return Sweep(
        [r.layer for r in found],
        np.stack([r.single for r in found], 1),
        np.stack([r.batch for r in found], 1),
        np.array([r.perplexity / base.perplexity if base else np.nan for r in found]),
        base.batch if base else None,
        {part: sum(r.seconds[part] for r in found) for part in found[0].seconds},
    )


def _model(home: Path, docs: Path) -> Iterator[str]:
    sweeps = {which: s for which in COLOURS if (s := load_sweep(home, which)) is not None}
    picks = {
        path.stem.removeprefix("localizer-"): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(home.glob("localizer-*.json"))
    }
    if not sweeps or not picks:
        return
    yield f"\n## {home.name}\n"
    layers = len(next(iter(picks.values()))["scores"])
    yield _coverage(sweeps, layers)
    plot = docs / f"golden-layers-{home.name}.svg"
    _draw(sweeps, picks, plot, home.name)
    yield f"\n![outcome by layer]({plot.name})\n"
    tests = {which: sweep for which, sweep in sweeps.items() if which != "proxy"}
    yield from _golden_table(sweeps)
    yield from _layer_table(tests)
    yield from _regret_table(tests, sweeps, picks)
    yield from _oracle_table(tests)
    yield from _times(home, sweeps.get("proxy"), picks, layers)


def _coverage(sweeps: dict[str, Sweep], layers: int) -> str:
    done = ", ".join(
        f"{which}: {len(s.batch)} facts at {len(s.layers)} of {layers} layers" for which, s in sweeps.items()
    )
    return f"Swept: {done}.\n"


def _golden_table(sweeps: dict[str, Sweep]) -> Iterator[str]:
    yield "### Golden layers\n"
    yield "| facts | base M | golden, batch | M there | golden, single | M there | mean over layers, batch |"
    yield "|---|---|---|---|---|---|---|"
    for which, s in sweeps.items():
        batch, single = s.m(), s.m("single")
        b, g = stats.golden(batch), stats.golden(single)
        base = "" if s.base is None else f"{overall(s.base, ALL).mean():.3f}"
        yield (
            f"| {which} | {base} | {s.layers[b]} | {batch[:, b].mean():.3f} | {s.layers[g]} | "
            f"{single[:, g].mean():.3f} | {batch.mean():.3f} |"
        )
    yield ""


def _layer_table(tests: dict[str, Sweep]) -> Iterator[str]:
    """Every swept layer's batch, so that one can see what a pick trades for what."""
    yield "### Every layer, batch edits\n"
    yield "| facts | layer | efficacy | paraphrase | neighbourhood | M | perplexity |"
    yield "|---|---|---|---|---|---|---|"
    for which, s in tests.items():
        for i, layer in enumerate(s.layers):
            kinds = [f"{np.nanmean(s.batch[:, i, list(kind)]):.3f}" for kind in ALL]
            rise = 100 * (s.perplexity[i] - 1)
            yield f"| {which} | {layer} | {' | '.join(kinds)} | {s.m()[:, i].mean():.3f} | {rise:+.1f} % |"
    yield ""


def _regret_table(
    tests: dict[str, Sweep], sweeps: dict[str, Sweep], picks: dict[str, dict[str, Any]]
) -> Iterator[str]:
    judged = {which: Outcomes(s.layers, s.m()) for which, s in tests.items()}
    if len(judged) > 1:
        judged |= {"all facts": _pooled(list(judged.values()))}
    yield "### Regret of each localizer, batch edits, in points\n"
    yield f"| localizer | picks | bootstrap share | seconds | {' | '.join(judged)} |"
    yield "|---|---|---|---|" + "---|" * len(judged)
    order = sorted(picks, key=lambda name: _mean_regret(judged, picks[name]["pick"]))
    for name in order:
        found = picks[name]
        share = "" if not found["n_facts"] or found["pick_share"] is None else f"{found['pick_share']:.2f}"
        cells = [_regret_cell(o, None if name == "random" else found["pick"]) for o in judged.values()]
        pick = "any" if name == "random" else str(found["pick"])
        yield f"| {name} | {pick} | {share} | {found['seconds']:.1f} | {' | '.join(cells)} |"
    for other, sweep in sweeps.items():
        best = sweep.layers[stats.golden(sweep.m())]
        cells = ["(itself)" if which == other else _regret_cell(o, best) for which, o in judged.items()]
        took = sum(sweep.seconds.values())
        yield f"| brute force on {other} | {best} | | {took:.0f} | {' | '.join(cells)} |"
    yield ""


def _pooled(sets: list[Outcomes]) -> Outcomes:
    """All sets' facts as one, at the layers that each of them has."""
    common = sorted(set.intersection(*(set(o.layers) for o in sets)))
    return Outcomes(common, np.concatenate([o.m[:, [o.layers.index(i) for i in common]] for o in sets]))


def _nearest(o: Outcomes, layer: int) -> int:
    return int(np.argmin(np.abs(np.array(o.layers) - layer)))


def _mean_regret(judged: dict[str, Outcomes], pick: int) -> float:
    return float(
        np.mean([stats.regret(o.m, _nearest(o, pick)).value for o in judged.values()]) if judged else 0.0
    )


def _regret_cell(o: Outcomes, pick: int | None) -> str:
    return stats.regret(o.m, None if pick is None else _nearest(o, pick)).points()


def _oracle_table(tests: dict[str, Sweep]) -> Iterator[str]:
    yield "### The hypothesis: one layer against each fact's own best, single edits\n"
    yield "| facts | golden layer | naive oracle | cross-fitted gap | best layer under the null | p |"
    yield "|---|---|---|---|---|---|"
    for which, s in tests.items():
        m = s.m("single")
        seen, null, p = stats.layer_null(m)
        gap = "one paraphrase: no halves"
        if not np.isnan(s.single[..., 2]).all():
            a, b = overall(s.single, HALF_A), overall(s.single, HALF_B)
            gap = stats.cross_fitted_gap(a, b).points()
        yield f"| {which} | {seen:.3f} | {stats.naive_oracle(m):.3f} | {gap} | {null:.3f} (95 %) | {p:.3f} |"
    yield (
        "\nThe naive oracle takes each fact's best of many noisy outcomes and is inflated; the cross-fitted "
        "gap chooses\na fact's layer on one half of its held-out prompts and judges on the other. The null "
        "shuffles each fact's\nlayers: a golden layer exists where the best layer stands above it.\n"
    )


def _times(home: Path, proxy: Sweep | None, picks: dict[str, dict[str, Any]], layers: int) -> Iterator[str]:
    path = home / "timing.json"
    if not path.exists() or proxy is None or "lga" not in picks:
        return
    plain = json.loads(path.read_text(encoding="utf-8"))
    scale = layers / len(proxy.layers)
    single = plain["seconds"] * plain["facts"] * layers
    batch = scale * sum(proxy.seconds[part] for part in ("targets", "solve", "batch"))
    lga = picks["lga"]["seconds"]
    yield f"### Times, {plain['facts']} proxy facts, all {layers} layers, {plain['threads']} threads\n"
    yield "| | seconds | times lga |"
    yield "|---|---|---|"
    yield f"| lga | {lga:.2f} | 1 |"
    yield f"| batched sweep of our own engine | {batch:.0f} | {batch / lga:.0f} |"
    yield f"| brute-force sweep by single edits | {single:.0f} | {single / lga:.0f} |"
    yield (
        f"\nThe single edits are extrapolated from {plain['timed']} timed ones; the batched sweep from "
        f"{len(proxy.layers)} layers.\n"
    )


def _draw(sweeps: dict[str, Sweep], picks: dict[str, dict[str, Any]], path: Path, title: str) -> None:
    """M by layer for batch (solid) and single (dashed) edits, and where the localizers point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for which, s in sweeps.items():
        for kind, style in (("batch", "o-"), ("single", "s--")):
            line = s.m(kind).mean(0)
            axes.plot(
                s.layers, line, style, markersize=3, color=COLOURS[which], label=f"{which}, {kind}", alpha=0.9
            )
    _mark_picks(axes, picks)
    axes.set(xlabel="edited layer", ylabel="M", title=title)
    axes.legend(fontsize=7, ncols=3)
    save_svg(figure, path)


def save_svg(figure: Any, path: Path) -> None:
    """The same picture is the same bytes."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "layers"}):
        figure.savefig(path, metadata={"Date": None})


def _mark_picks(axes: Any, picks: dict[str, dict[str, Any]]) -> None:
    by_layer: dict[int, list[str]] = {}
    for name, found in picks.items():
        if name != "random":
            by_layer.setdefault(found["pick"], []).append(name)
    low, high = axes.get_ylim()
    for layer, names in by_layer.items():
        axes.axvline(layer, color="black", linewidth=0.5, alpha=0.4)
        axes.text(layer, low + 0.02 * (high - low), ", ".join(names), rotation=90, fontsize=6, va="bottom")
