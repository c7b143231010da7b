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
from functools import partial

import torch

from bench import quality
from bench.data import ROOT
from bench.edit_facts import counterfact, probes_of, request_of
from bench.grounds import Ground, openings_of, text
from bench.quality_rows import Marks
from corrigenda.editing.solve.joint import solve_balanced
from corrigenda.editing.targets.groups import Group
from corrigenda.editing.targets.reference import reference_target
from corrigenda.editing.targets.target import Target
from corrigenda.facts import EditRequest, digest_of
from corrigenda.models.loading import load
from corrigenda.models.sources import resolve
from corrigenda.settings import AdamDescent, Editing, TargetSettings

# kmeng01/memit's settings for its objective, with its clamp for GPT-J.
PLAIN = TargetSettings(
    descent=AdamDescent(learning_rate=0.5),
    warm_steps=0,
    steps=25,
    late_steps=0,
    contexts=5,
    key_contexts=5,
    kl_weight=0.0625,
    stop_loss=0.05,
)
PLAIN_CAP = 0.75
# The facts are cut into so few parts because the engine lives on batches: 32 at once took twice as long a
# fact as 128 (docs/log).
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
    model = load(resolve(asked.model, root=ROOT))

    def ground(settings: Editing) -> Ground:
        tokens, kept = asked.background_tokens, quality.RESULTS
        return Ground.of(model, asked.layer, settings, tokens=tokens, source="wikitext", kept=kept)

    if asked.nights:
        nights(ground(Editing()), asked.cached)
    else:
        compare(ground(Editing()), ground(Editing(band=1)), asked.facts, asked.reference)


def compare(ours: Ground, single: Ground, facts: int, reference: int) -> None:
    """Both algorithms in turn, a part of the facts each time; `single`: the one layer of the reference."""
    model = ours.model
    step = facts // reference
    records = counterfact(facts, "report")[: reference * step]
    requests = [request_of(record) for record in records]
    plain_openings = openings_of(model, PLAIN)

    def references(some: Sequence[EditRequest]) -> dict[str, Target]:
        found = (
            reference_target(model, single.band, Group((one,)), plain_openings, PLAIN, norm_cap=PLAIN_CAP)
            for one in some
        )
        return {one.digest: target for one, target in zip(some, found, strict=True)}

    fast_s = plain_s = 0.0
    fast: dict[str, Target] = {}
    plain: dict[str, Target] = {}
    turn = -(-reference // TURNS) * step
    for first in range(0, len(requests), turn):
        some = requests[first : first + turn]
        took, found = timed(partial(known_of, ours, some))
        fast_s, fast = fast_s + took, fast | found
        took, found = timed(partial(references, some[::step]))
        plain_s, plain = plain_s + took, plain | found
    print(f"engine     {fast_s / len(fast):.3f} s a fact, {len(fast)} facts")
    print(f"reference  {plain_s / len(plain):.3f} s a fact, {len(plain)} facts")
    print(f"ratio      {plain_s / len(plain) / (fast_s / len(fast)):.1f}x")
    print(peak_memory())
    held_out = text(model, "wikitext_dev.parquet", 4_096, 512)
    probes = probes_of(records[::step], records[::step], 10)
    before = quality.figures(model, probes, held_out)
    print(f"\nquality on the reference's {len(plain)} facts, one joint solve each")
    print("| | ES | PS | NS drop, points | perplexity | said | change |")
    print("|---|---|---|---|---|---|---|")
    asked = {digest: fast[digest] for digest in plain}
    for name, ground, known in (("engine", ours, asked), ("reference", single, plain)):
        needing = {digest: with_needs(target) for digest, target in known.items()}
        solved = solve_balanced(needing, ground.others, ground.settings)
        with model.trial(dict(zip(ground.band.layers, solved.updates, strict=True))):
            marks = Marks.between(before, quality.figures(model, probes, held_out))
        print(f"| {name} | {marks} | {solved.change:.3f} |")


def with_needs(target: Target) -> Target:
    """The reference does not measure what share of its residual suffices: assume what is usual for ours."""
    return target if target.needed < 1 else replace(target, needed=0.75)


def known_of(ground: Ground, requests: Sequence[EditRequest]) -> dict[str, Target]:
    return ground.targets(requests).known


def timed(work: Callable[[], dict[str, Target]]) -> tuple[float, dict[str, Target]]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def peak_memory() -> str:
    return f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


def nights(ours: Ground, count: int) -> None:
    """Twenty facts alone, and twenty on top of `count` whose targets are cached; alternately, three times."""
    requests = [request_of(record) for record in counterfact(140, "tune")]
    cached = many_like(ours.targets(requests[:80]).known, count)

    def night(new: Sequence[EditRequest], cached: dict[str, Target]) -> dict[str, Target]:
        known = cached | ours.targets(new).known
        solve_balanced(known, ours.others, ours.settings)
        return known

    print(f"| run | 20 alone, s | 20 on {count:,}, s | ratio |")
    print("|---|---|---|---|")
    for run in range(3):
        new = requests[80 + 20 * run : 100 + 20 * run]
        alone, _ = timed(partial(night, new, {}))
        more, _ = timed(partial(night, new, cached))
        print(f"| {run} | {alone:.2f} | {more:.2f} | {more / alone:.2f} |", flush=True)
    print(peak_memory())


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
