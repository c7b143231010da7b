"""Quality of one batch edit at one layer, in CounterFact's own terms, on facts that nothing was tuned on.

    python -m bench.quality --facts 100 --layer 8

Facts are the odd rows of the data (the even ones are for tuning). ES, PS and NS as Meng et al. 2022 define
them; perplexity on held-out WikiText in rows of 512 tokens.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from corrigenda.config import Corpus, Editing
from corrigenda.editing import contexts, corpus, covariance, engine, success
from corrigenda.facts import EditRequest
from corrigenda.models.loading import LanguageModel, load
from corrigenda.models.sources import resolve
from corrigenda.validation.probes import Probe, make_probe
from corrigenda.validation.scoring import score

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


def main() -> None:
    asked = arguments()
    model = load(resolve(asked.model, root=ROOT))
    records = pq.read_table(asked.data).to_pylist()[1::2][: asked.facts]
    probes = probes_of(records, asked.neighbours)
    held_out = text(model, "wikitext_dev.parquet", asked.perplexity_tokens, 512)
    before = figures(model, probes, held_out)
    background = text(model, "wikitext_train_head.parquet", 30_000, 128)
    update, told = edit(model, records, asked.layer, background)
    with model.trial(asked.layer, update):
        after = figures(model, probes, held_out)
    print(f"{len(records)} facts, layer {asked.layer}, {told}")
    for name in ("rewrite", "paraphrase", "locality"):
        print(f"{name:12} {before[name]:.4f} -> {after[name]:.4f}")
    print(f"neighbourhood drop   {100 * (before['locality'] - after['locality']):.2f} points")
    print(f"perplexity   {before['perplexity']:.3f} -> {after['perplexity']:.3f}", end=" ")
    print(f"({100 * (after['perplexity'] / before['perplexity'] - 1):+.2f} %)")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo:smollm2-135m", help="any source that a fleet takes")
    parser.add_argument("--data", type=Path, default=DATA / "counterfact_dev.parquet")
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--layer", type=int, default=8)
    parser.add_argument("--neighbours", type=int, default=10, help="per fact")
    parser.add_argument("--perplexity-tokens", type=int, default=16_384)
    return parser.parse_args()


def text(model: LanguageModel, name: str, tokens: int, length: int) -> Tensor:
    """Token rows of a development text."""
    return corpus.background_tokens(model, Corpus(source=str(DATA / name), tokens=tokens, length=length))


def edit(
    model: LanguageModel, records: Sequence[dict[str, Any]], layer: int, background: Tensor
) -> tuple[Tensor, str]:
    """The joint update of all records, and what it took in words."""
    settings = Editing()
    weight, cap = engine.strength(settings)
    requests = [EditRequest(r["subject"], r["prompt"], r["target_new"]) for r in records]
    openings = contexts.generate_contexts(model, settings.contexts, settings.context_tokens, settings.seed)
    moments = covariance.key_covariance(model, [layer], background)[layer]
    start = time.perf_counter()
    found = engine.find_targets(model, layer, requests, openings, settings, norm_cap=cap, cached={})
    targets_s = time.perf_counter() - start
    wanted = sorted((r for r in requests if r.digest in found.known), key=lambda r: r.digest)
    wanted = list({r.digest: r for r in wanted}.values())
    short = success.short_under(model, layer, wanted)
    start = time.perf_counter()
    engine.solve_targets(found.known, moments, settings, weight=weight)
    solve_s = time.perf_counter() - start
    solved = engine.solve_balanced(found.known, moments, settings, weight=weight, short=short)
    speed = f"{targets_s / len(requests):.2f} s a fact, one solve {solve_s:.2f} s"
    return (
        solved.update,
        f"{speed}, {solved.rounds} rounds, {solved.short} short, refused {len(found.refused)}",
    )


def probes_of(records: Sequence[dict[str, Any]], neighbours: int) -> list[Probe]:
    """CounterFact's probes; a neighbour that is another record's edit prompt is dropped."""
    edited = {r["prompt"].replace("{}", r["subject"]) for r in records}
    found = []
    for r in records:
        name, new, old = str(r["case_id"]), r["target_new"], r["target_true"]
        found.append(make_probe(name, "rewrite", r["prompt"].replace("{}", r["subject"]), new, old))
        found += [make_probe(name, "paraphrase", p, new, old) for p in r["paraphrase_prompts"]]
        near = [p for p in r["neighborhood_prompts"][:neighbours] if p not in edited]
        found += [make_probe(name, "locality", p, old, new) for p in near]
    return found


def figures(model: LanguageModel, probes: Sequence[Probe], held_out: Tensor) -> dict[str, float]:
    """ES, PS, NS (shares in which the right continuation is likelier) and perplexity."""
    rows = score(model, probes).to_pylist()
    out = {"perplexity": perplexity(model, held_out)}
    for kind in ("rewrite", "paraphrase", "locality"):
        won = [
            row["logp_expected"] > row["logp_other"]
            for row, probe in zip(rows, probes, strict=True)
            if probe.kind == kind
        ]
        out[kind] = sum(won) / max(1, len(won))
    return out


@torch.no_grad()
def perplexity(model: LanguageModel, tokens: Tensor) -> float:
    total = count = 0.0
    for block in tokens.split(4):
        logits = model.logits(model.body(input_ids=block).last_hidden_state[:, :-1])
        total += float(cross_entropy(logits.flatten(0, 1), block[:, 1:].flatten(), reduction="sum"))
        count += block[:, 1:].numel()
    return math.exp(total / count)


if __name__ == "__main__":
    main()
