"""The golden-layer study: is there one layer that serves all edits, and which localizer finds it?

    python -m bench.layers --facts 100 --minutes 60

Resumable: every (model, data, layer) is a file of its own under bench/results/layers; a run does what is
missing, coarse layers first, and writes docs/golden-layers.md from whatever there is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import torch
from torch import Tensor

from bench import layer_page
from bench.data import ROOT, data_file
from bench.grounds import openings_of, text
from bench.layer_exam import Exam
from bench.layer_facts import StudyFact, counterfact, draw, proxies, zsre
from bench.layer_study import (
    EDITING,
    METRIC,
    Background,
    LayerResult,
    Strength,
    plain_single_edit,
    sweep_layer,
)
from bench.quality import perplexity
from corrigenda.editing.background.covariance import key_covariance
from corrigenda.editing.background.fisher import metric_of, output_fisher
from corrigenda.editing.localization.localize import localize
from corrigenda.editing.localization.proxy import known_facts
from corrigenda.editing.localization.trials import trial_of
from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.norm_cap import proxy_norm_cap
from corrigenda.facts import ProxyFact
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.loading import load
from corrigenda.models.sources import resolve
from corrigenda.settings import Localization, Localizer
from corrigenda.storage.corrections.proxy_facts import read_proxy_facts

RESULTS = ROOT / "bench" / "results" / "layers"
SETS = ("proxy", "counterfact", "zsre")
TIMED_FACTS, TIMED_LAYERS = 3, 3
HELD_OUT = 4_096  # tokens that the perplexity is read on
# Methods that cost many passes wait until the sweeps are done.
SLOW: tuple[Localizer, ...] = ("two-stage", "causal-tracing")


def main() -> None:
    asked = arguments()
    strength = Strength(facts=asked.facts, seed=asked.seed, background_tokens=asked.background_tokens)
    place = RESULTS / strength.digest[:8]
    place.mkdir(parents=True, exist_ok=True)
    (place / "strength.json").write_text(json.dumps(asdict(strength)), encoding="utf-8")
    deadline = time.monotonic() + 60 * asked.minutes
    if not asked.page_only:
        for given in asked.model:
            name, _, source = given.partition("=")
            study(name, source, place, strength, asked, deadline)
    page = layer_page.write(place, ROOT / "docs")
    print(f"written: {page.relative_to(ROOT)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--model", action="append", metavar="NAME=SOURCE", help="any source that fleet.toml takes")
    add("--data", default=",".join(SETS), help="which sets to sweep")
    add("--layers", default="", help="layers to sweep, with commas; default: all, coarse first")
    add("--facts", type=int, default=100, help="test facts per data set, edited in one batch")
    add("--sample", type=int, default=30, help="proxy facts of the localizers")
    add("--background-tokens", type=int, default=32_768)
    add("--seed", type=int, default=0)
    add("--minutes", type=float, default=600.0, help="stop after about this time; the next run goes on")
    add("--page-only", action="store_true", help="only write the page from the results there are")
    asked = parser.parse_args()
    asked.model = asked.model or ["smollm2-135m=demo:smollm2-135m"]
    return asked


def study(
    name: str, source: str, place: Path, strength: Strength, asked: argparse.Namespace, deadline: float
) -> None:
    """All that is missing of one model's results, until the deadline."""
    model = load(resolve(source, root=ROOT), device="auto")
    known = known_facts(model, read_proxy_facts(), asked.sample, strength.seed)
    home = place / name
    exams = dict(_exams(model, known, strength, asked.data.split(",")))
    methods = get_args(Localizer)
    rows = text(model, "wikitext_train_head.parquet", strength.background_tokens, 128)
    fast = [m for m in methods if m not in SLOW]
    localizers(model, known, home, fast, rows, deadline)
    wanted = [int(x) for x in asked.layers.split(",") if x] or coarse_first(model.n_layers)
    missing = [
        (layer, which) for which in exams for layer in wanted if not result(home, which, layer).exists()
    ]
    if missing and time.monotonic() < deadline:
        backgrounds = kept_background(model, home / "background.pt", rows)
        timing(model, exams, backgrounds, home)
        for layer, which in missing:
            if time.monotonic() > deadline:
                break
            done = sweep_layer(model, exams[which], layer, backgrounds[layer])
            done.write(result(home, which, layer))
            print(f"{name} {which} layer {layer}: {sum(done.seconds.values()):.0f} s", flush=True)
    unedited(model, exams, home)
    localizers(model, known, home, SLOW, rows, deadline)


def _exams(
    model: LanguageModel, known: Sequence[ProxyFact], strength: Strength, sets: Sequence[str]
) -> Iterator[tuple[str, Exam]]:
    """The sets asked for, in the order of SETS; no subject is in two of them."""
    taken = {fact.subject for fact in known}
    for which in SETS:
        if which not in sets:
            continue
        facts = _facts(which, model, known, strength, taken)
        taken |= {fact.request.subject for fact in facts}
        yield which, Exam(model, facts)


def _facts(
    which: str, model: LanguageModel, known: Sequence[ProxyFact], strength: Strength, taken: set[str]
) -> list[StudyFact]:
    if which == "proxy":
        return proxies(known)
    rows: list[dict[str, Any]] = draw(
        pq.read_table(data_file(f"{which}_dev.parquet")).to_pylist(), strength.facts, taken, strength.seed
    )
    return counterfact(rows) if which == "counterfact" else zsre(rows, model)


def result(home: Path, which: str, layer: int) -> Path:
    return home / which / f"layer-{layer:03d}.json"


def coarse_first(n: int) -> list[int]:
    """All layers in such an order that a study cut short has covered the model evenly."""
    order: list[int] = []
    step = 1 << max(0, (n - 1).bit_length() - 2)
    while step >= 1:
        order += [layer for layer in range(0, n, step) if layer not in order]
        step //= 2
    return order


def localizers(
    model: LanguageModel,
    known: Sequence[ProxyFact],
    home: Path,
    methods: Sequence[Localizer],
    rows: Tensor,
    deadline: float,
) -> None:
    """The methods' scores on the proxy facts, with the time that each took; rows of background text."""
    home.mkdir(parents=True, exist_ok=True)
    for method in methods:
        path = home / f"localizer-{method}.json"
        if path.exists() or time.monotonic() > deadline:
            continue
        # The first call of a process pays for allocations; a timed one follows it.
        if method == "lga":
            localize(model, known[:8], Localization(method=method))
        started = time.perf_counter()
        trial = trial_of(model, known, rows) if method == "two-stage" else None
        found = localize(model, known, Localization(method=method), trial=trial)
        took = time.perf_counter() - started
        path.write_text(json.dumps(found.to_json() | {"seconds": took}), encoding="utf-8")
        print(f"{home.name} {method}: layer {found.pick}, {took:.1f} s", flush=True)


def kept_background(model: LanguageModel, path: Path, rows: Tensor) -> dict[int, Background]:
    """The backgrounds of all layers, from token rows; a study that goes on does not measure them again."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(background(model, rows), path)
    moments, metrics, caps = torch.load(path)
    contexts, apart = openings_of(model, EDITING.targets), held_out(model)
    return {
        layer: Background(_ridged(moments[layer].double()), metrics[layer], caps[layer], contexts, apart)
        for layer in moments
    }


def background(
    model: LanguageModel, rows: Tensor
) -> tuple[dict[int, Tensor], dict[int, Tensor], dict[int, float]]:
    """Covariances and metrics of all layers, from token rows (rows, length), and their norm caps."""
    layers = range(model.n_layers)
    fishers = output_fisher(model, layers, rows[: METRIC.metric_tokens // rows.shape[1]])
    moments = {layer: found.float() for layer, found in key_covariance(model, layers, rows).items()}
    metrics = {layer: metric_of(fisher) for layer, fisher in fishers.items()}
    pool = read_proxy_facts()
    caps = {
        layer: proxy_norm_cap(model, Band.single(layer), pool, EDITING.targets, metrics[layer][None])
        for layer in layers
    }
    return moments, metrics, caps


def held_out(model: LanguageModel) -> Tensor:
    """The rows (rows, length) that perplexity is read on, before any edit and after each."""
    return text(model, "wikitext_dev.parquet", HELD_OUT, 128)


def _ridged(covariance: Tensor) -> Tensor:
    covariance.diagonal().add_(1e-3 * covariance.diagonal().mean())
    return covariance


def timing(
    model: LanguageModel,
    exams: dict[str, Exam],
    backgrounds: dict[int, Background],
    home: Path,
) -> None:
    """Seconds of a plain single edit of a proxy fact: a sample, spread over the layers."""
    path = home / "timing.json"
    if path.exists() or "proxy" not in exams:
        return
    layers = sorted(backgrounds)
    spread = [layers[round(i * (len(layers) - 1) / (TIMED_LAYERS - 1))] for i in range(TIMED_LAYERS)]
    spent = [
        plain_single_edit(model, fact, layer, backgrounds[layer])
        for layer in spread
        for fact in exams["proxy"].facts[:TIMED_FACTS]
    ]
    facts = len(exams["proxy"].facts)
    row = {"seconds": sum(spent) / len(spent), "timed": len(spent), "facts": facts}
    path.write_text(
        json.dumps(row | {"layers": model.n_layers, "threads": torch.get_num_threads()}), encoding="utf-8"
    )


def unedited(model: LanguageModel, exams: dict[str, Exam], home: Path) -> None:
    """The base's own outcome on every set."""
    rows = held_out(model)
    for which, exam in exams.items():
        path = home / which / "base.json"
        if not path.exists():
            marks = exam.mark(0)
            LayerResult(-1, marks, marks, perplexity(model, rows), 0.0, {}).write(path)


if __name__ == "__main__":
    main()
