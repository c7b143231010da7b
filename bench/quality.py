"""Quality of one batch edit of the band around a layer, on facts that nothing was tuned on.

    python -m bench.quality --facts 100,1000,2000 --layer 8
    python -m bench.quality --facts 100 --weights 30,100,300,1000,3000      # the trade-off
    python -m bench.quality --facts 500 --file facts.parquet                # facts of your own

Facts are the odd rows of the data (the even ones are for tuning: `--half tune`), then, where those do not
suffice, other CounterFact facts of which neither subject nor prompt is in the data. A file may have any shape
that `corrigenda submit` takes; of its facts those with an old answer are asked. ES, PS and NS as Meng et
al. 2022 define them; perplexity on held-out WikiText in rows of 512 tokens. Targets are kept in
bench/results/quality, so that a second run costs its solves and its marks.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bench.data import ROOT
from bench.edit_facts import HALVES, counterfact, of_file, probes_of, request_of
from bench.grounds import Ground, text
from bench.quality_rows import HEAD, Marks, Row, Solve, keep
from corrigenda.editing.solve.joint import solve_balanced
from corrigenda.editing.targets import packs
from corrigenda.editing.targets.target import Target
from corrigenda.facts import digest_of
from corrigenda.models.batch_invariant import products_in
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.loading import load
from corrigenda.models.sources import resolve
from corrigenda.settings import Corpus, Editing
from corrigenda.validation.probes import Probe
from corrigenda.validation.scoring import score

RESULTS = ROOT / "bench" / "results" / "quality"
ROWS = RESULTS / "rows.jsonl"
STEP = 100  # targets between two saves


def main() -> None:
    asked = arguments()
    model = load(resolve(asked.model, root=ROOT))
    settings = settings_of(asked.set)
    counts = [int(n) for n in asked.facts.split(",")]
    if asked.file:
        records, data = of_file(asked.file, max(counts), asked.half), asked.file.name
    else:
        records, data = counterfact(max(counts), asked.half), "counterfact"
    ground = Ground.of(
        model, asked.layer, settings, tokens=asked.background_tokens, source=asked.corpus, kept=RESULTS
    )
    print(
        f"layers {ground.band.layers}, scales {ground.band.scales}, norm cap {ground.norm_cap:g}", flush=True
    )
    known = targets(ground, asked, records)
    held_out = text(model, "wikitext_dev.parquet", asked.perplexity_tokens, 512)
    print(HEAD)
    for count in counts:
        some = records[:count]
        marked = some[:: max(1, count // asked.marked)]
        neighbours = asked.neighbours if count <= 200 else asked.few_neighbours
        probes = probes_of(marked, some, neighbours)
        before = figures(model, probes, held_out)
        chosen = {r.digest: known[r.digest] for r in map(request_of, some) if r.digest in known}
        for solve, updates in solves(chosen, ground, asked.weights):
            with model.trial(updates):
                marks = Marks.between(before, figures(model, probes, held_out))
            row = Row(
                model=asked.model,
                layer=asked.layer,
                half=asked.half,
                background=f"{asked.background_tokens} tokens of {asked.corpus}",
                given=tuple(sorted(asked.set)),
                facts=len(some),
                marked=len(marked),
                neighbours=neighbours,
                solve=solve,
                marks=marks,
                data=data,
            )
            print(row, flush=True)
            keep(row, ROWS)


def settings_of(given: Sequence[str]) -> Editing:
    """Editing settings from `name=JSON`; a name may be a path through sections."""
    told: dict[str, Any] = {}
    for one in given:
        path, _, value = one.partition("=")
        *sections, name = path.split(".")
        place = told
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = json.loads(value)
    return Editing.model_validate(told)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--model", default="demo:smollm2-135m", help="any source that a fleet takes")
    add("--facts", default="100", help="numbers of facts, with commas")
    add("--file", type=Path, help="corrections of your own instead of CounterFact")
    add("--half", choices=sorted(HALVES), default="report")
    add("--layer", type=int, default=10, help="the golden one, around which the band lies")
    add("--weights", default="", help="covariance weights to solve with besides, with commas")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="an editing setting, such as band=6 or targets.steps=10",
    )
    add("--background-tokens", type=int, default=Corpus().tokens)
    add("--corpus", default="self", help="self: text sampled from the model; or wikitext")
    add("--neighbours", type=int, default=10, help="per fact, up to 200 facts")
    add("--few-neighbours", type=int, default=2, help="per fact, above")
    add("--marked", type=int, default=2_000, help="of the facts, evenly taken, so many are asked afterwards")
    add("--perplexity-tokens", type=int, default=8_192)
    return parser.parse_args()


def targets(
    ground: Ground, asked: argparse.Namespace, records: Sequence[dict[str, Any]]
) -> dict[str, Target]:
    """Targets of all records by digest; those of earlier runs are read."""
    base = {"weights_digest": asked.model, "tokenizer_digest": ""}
    measured = f"{asked.corpus} {asked.background_tokens}"
    scope = packs.scope(
        base, ground.band, ground.openings, ground.settings.targets, ground.norm_cap, measured
    )
    home = RESULTS / scope[:12]
    home.mkdir(parents=True, exist_ok=True)
    known = packs.unpack(path.read_bytes() for path in sorted(home.glob("*.pack")))
    wanted = list({r.digest: r for r in map(request_of, records)}.values())
    new = [request for request in wanted if request.digest not in known]
    start = time.perf_counter()
    for first in range(0, len(new), STEP):
        some = new[first : first + STEP]
        found = ground.targets(some)
        single = {d: t for d, t in found.fresh.items() if len(found.groups[d].requests) == 1}
        (home / f"{digest_of(sorted(single))[:12]}.pack").write_bytes(packs.pack(single))
        known |= single
        print(f"{first + len(some)} of {len(new)}, {time.perf_counter() - start:.0f} s", flush=True)
    if new:
        took = (time.perf_counter() - start) / len(new)
        refused = sum(request.digest not in known for request in new)
        print(f"{len(new)} targets, {took:.3f} s a fact, {refused} refused", flush=True)
    return known


def solves(
    known: dict[str, Target], ground: Ground, weights: str
) -> Iterator[tuple[Solve, dict[int, Tensor]]]:
    """The joint solve of a night, the same without its pressing if it did any, and the weights asked for."""
    for rounds in (ground.settings.balance_rounds, 0):
        found = timed_solve(known, ground, balance_rounds=rounds)
        yield found
        if not found[0].rounds:
            break
    for weight in (float(w) for w in weights.split(",") if w):
        yield timed_solve(known, ground, covariance_weight=weight, balance_rounds=0)


def timed_solve(known: dict[str, Target], ground: Ground, **asked: Any) -> tuple[Solve, dict[int, Tensor]]:
    """How a solve went, with some settings other than the ground's, and the updates by layer."""
    settings = ground.settings.model_copy(update=asked)
    start = time.perf_counter()
    done = solve_balanced(known, ground.others, settings)
    took = time.perf_counter() - start
    automatic = settings.covariance_weight == "auto"
    how = Solve(settings.solver, automatic, done.weight, done.rounds, done.short, done.change, took)
    return how, dict(zip(ground.band.layers, done.updates, strict=True))


def figures(model: LanguageModel, probes: Sequence[Probe], held_out: Tensor) -> dict[str, float]:
    """ES, PS, NS (shares in which the right continuation is likelier), the share of rewrites that greedy
    decoding says, and perplexity."""
    with products_in("auto", model.device):
        rows = score(model, probes).to_pylist()
        out = {"perplexity": perplexity(model, held_out)}
    for kind in ("rewrite", "paraphrase", "locality"):
        mine = [row for row, probe in zip(rows, probes, strict=True) if probe.kind == kind]
        won = [row["logp_expected"] > row["logp_other"] for row in mine]
        out[kind] = sum(won) / len(won) if won else math.nan
        if kind == "rewrite":
            out["said"] = sum(row["begins"] for row in mine) / max(1, len(mine))
    return out


@torch.no_grad()
def perplexity(model: LanguageModel, tokens: Tensor) -> float:
    total = count = 0.0
    for block in torch.split(tokens, 4):
        logits = model.logits(model.body(input_ids=block).last_hidden_state[:, :-1])
        total += float(cross_entropy(logits.flatten(0, 1), block[:, 1:].flatten(), reduction="sum"))
        count += block[:, 1:].numel()
    return math.exp(total / count)


if __name__ == "__main__":
    main()
