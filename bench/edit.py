"""Speed and quality of the engine against MEMIT's plain algorithm, on the same facts, in one process.

    python -m bench.edit --facts 256 --reference 8

The reference optimises one fact at a time with full forward passes, 25 Adam steps, 5 generated contexts and
the KL prompt, as the released code does (kmeng01/memit); it is timed on some of the facts, spread evenly.
Quality is compared on those: each one's targets are solved for jointly, with the same covariance and the
weight that suits them, and asked in CounterFact's terms. The clocks of both run alternately, so that what
else the machine does weighs on both alike.

    python -m bench.edit --nights                   20 new facts on top of 2,000 cached ones against 20 alone
    python -m bench.edit --nights --cached 10000    the same on top of 10,000, for the memory it takes
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from bench import quality
from corrigenda.config import Editing
from corrigenda.editing import contexts, engine
from corrigenda.editing.balance import OtherText, solve_balanced
from corrigenda.editing.groups import Group
from corrigenda.editing.reference import reference_target
from corrigenda.editing.targets import Target, optimise_targets
from corrigenda.facts import EditRequest, digest_of
from corrigenda.models.loading import LanguageModel, load
from corrigenda.models.sources import resolve

# kmeng01/memit's settings for its objective, with its clamp for GPT-J.
PLAIN = Editing(
    optimiser="adam",
    metric="plain",
    warm_steps=0,
    steps=25,
    learning_rate=0.5,
    contexts=5,
    key_contexts=5,
    kl_weight=0.0625,
    stop_loss=0.05,
)
PLAIN_CAP = 0.75
# The facts are cut into so few parts because the engine lives on batches: 32 at once took twice as long a
# fact as 128 (docs/LOG.md).
TURNS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="demo:smollm2-135m", help="any source that a fleet takes")
    parser.add_argument("--facts", type=int, default=256)
    parser.add_argument("--reference", type=int, default=8, help="facts that the plain algorithm gets")
    parser.add_argument("--layer", type=int, default=8)
    parser.add_argument("--background-tokens", type=int, default=200_000)
    parser.add_argument("--nights", action="store_true", help="what 20 new facts cost on top of many")
    parser.add_argument("--cached", type=int, default=2_000, help="facts that a night finds in the cache")
    asked = parser.parse_args()
    model = load(resolve(asked.model, root=quality.ROOT))
    settings = Editing()
    moments, metric = quality.background(model, asked.layer, asked.background_tokens, settings, "wikitext")
    if asked.nights:
        nights(model, asked.layer, moments, metric, settings, asked.cached)
    else:
        compare(model, asked, moments, metric, settings)


def compare(
    model: LanguageModel, asked: argparse.Namespace, moments: Tensor, metric: Tensor | None, ours: Editing
) -> None:
    """Both algorithms in turn, a part of the facts each time."""
    records = quality.facts(asked.facts, "report")
    step = asked.facts // asked.reference
    groups = [Group((quality.request_of(record),)) for record in records[: asked.reference * step]]
    openings = openings_of(model, ours)
    plain_openings = openings_of(model, PLAIN)
    fast_s = plain_s = 0.0
    fast: list[Target] = []
    plain: list[Target] = []
    turn = -(-asked.reference // TURNS) * step
    for first in range(0, len(groups), turn):
        some = groups[first : first + turn]
        took, found = timed(
            lambda some=some: optimise_targets(
                model, asked.layer, some, openings, ours, norm_cap=engine.norm_cap_of(ours), metric=metric
            )
        )
        fast_s, fast = fast_s + took, fast + found
        chosen = some[::step]
        took, found = timed(
            lambda chosen=chosen: [
                reference_target(model, asked.layer, group, plain_openings, PLAIN, norm_cap=PLAIN_CAP)
                for group in chosen
            ]
        )
        plain_s, plain = plain_s + took, plain + found
    print(f"engine     {fast_s / len(fast):.3f} s a fact, {len(fast)} facts")
    print(f"reference  {plain_s / len(plain):.3f} s a fact, {len(plain)} facts")
    print(f"ratio      {plain_s / len(plain) / (fast_s / len(fast)):.1f}x")
    print(peak_memory())
    some = [records[i] for i in range(0, len(plain) * step, step)]
    held_out = quality.text(model, "wikitext_dev.parquet", 4_096, 512)
    probes = quality.probes_of(some, some, 10)
    before = quality.figures(model, probes, held_out)
    print(f"\nquality on the reference's {len(plain)} facts, one joint solve each")
    for name, found in (("engine", fast[::step]), ("reference", plain)):
        known = {quality.request_of(r).digest: with_needs(t) for r, t in zip(some, found, strict=True)}
        solved = solve_balanced(known, OtherText.of(model.linear_map(asked.layer), moments), ours)
        with model.trial(asked.layer, solved.update):
            after = quality.figures(model, probes, held_out)
        print(quality.line(len(some), name, before, after, solved.change, 0.0))


def with_needs(target: Target) -> Target:
    """The reference does not measure what share of its residual suffices: assume what is usual for ours."""
    return target if target.needed < 1 else replace(target, needed=0.75)


def openings_of(model: LanguageModel, settings: Editing) -> tuple[str, ...]:
    count = max(settings.contexts, settings.key_contexts)
    return contexts.generate_contexts(model, count, settings.context_tokens, settings.seed)


def timed(work: Callable[[], list[Target]]) -> tuple[float, list[Target]]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def peak_memory() -> str:
    return f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def nights(
    model: LanguageModel,
    layer: int,
    moments: Tensor,
    metric: Tensor | None,
    settings: Editing,
    count: int,
) -> None:
    """Twenty facts alone, and twenty on top of `count` whose targets are cached; alternately, three times."""
    requests = [quality.request_of(record) for record in quality.facts(140, "tune")]
    openings = openings_of(model, settings)
    found = find(model, layer, requests[:80], openings, settings, metric, {})
    cached = many_like(found.known, count)
    print(f"| run | 20 alone, s | 20 on {count:,}, s | ratio |")
    print("|---|---|---|---|")
    for run in range(3):
        new = requests[80 + 20 * run : 100 + 20 * run]
        alone, _ = timed(lambda new=new: night(model, layer, new, openings, settings, metric, moments, {}))
        more, _ = timed(lambda new=new: night(model, layer, new, openings, settings, metric, moments, cached))
        print(f"| {run} | {alone:.2f} | {more:.2f} | {more / alone:.2f} |", flush=True)
    print(peak_memory())


def night(
    model: LanguageModel,
    layer: int,
    new: Sequence[EditRequest],
    openings: tuple[str, ...],
    settings: Editing,
    metric: Tensor | None,
    moments: Tensor,
    cached: dict[str, Target],
) -> list[Target]:
    found = find(model, layer, new, openings, settings, metric, {})
    solve_balanced(cached | found.known, OtherText.of(model.linear_map(layer), moments), settings)
    return list(found.known.values())


def find(
    model: LanguageModel,
    layer: int,
    requests: Sequence[EditRequest],
    openings: tuple[str, ...],
    settings: Editing,
    metric: Tensor | None,
    cached: dict[str, Any],
) -> engine.Targets:
    return engine.find_targets(
        model,
        layer,
        requests,
        openings,
        settings,
        norm_cap=engine.norm_cap_of(settings),
        cached=cached,
        metric=metric,
    )


def many_like(known: dict[str, Target], count: int) -> dict[str, Target]:
    """As many targets as are wanted, real ones with noise: a solve takes the same time with any."""
    generator = torch.Generator().manual_seed(0)
    some = list(known.values())
    out = {}
    for i in range(count):
        target = some[i % len(some)]
        noise = 0.3 * target.keys.std() * torch.randn(target.keys.shape, generator=generator)
        out[digest_of(["made", i])] = replace(target, keys=target.keys + noise)
    return out


if __name__ == "__main__":
    main()
