"""Scoring as validation does it, against a plain loop of one prompt per forward, on a real model.

    python bench/bench_scoring.py [--model demo:smollm2-135m] [--corrections 64] [--many 0]

Both sides read the same probes (those of the built-in demo corrections) in one run and must agree; prints the
ratio and fails below 8. The loop is the lesser half of the work: it reads log-probabilities only, where
`score` also gives ranks and greedy continuations. `--many 10000` scores that many made-up probes as well and
prints the peak of resident memory before and after.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch

from corrigenda.models.loading import LanguageModel, load
from corrigenda.models.sources import resolve
from corrigenda.storage import formats
from corrigenda.storage.proxy_facts import read_proxy_facts
from corrigenda.storage.schemas import correction_of
from corrigenda.validation.probes import Probe, make_probe, probes_of
from corrigenda.validation.scoring import score

LEAST_RATIO = 8.0
WARM_UP = 8  # probes that either side reads before the clock starts


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("--model", default="demo:smollm2-135m", help="a directory or a source")
    asked.add_argument("--corrections", type=int, default=64)
    asked.add_argument("--many", type=int, default=0)
    args = asked.parse_args()
    model = load(resolve(args.model, root=Path.cwd()))
    ratio = compare(model, built_in_probes(args.corrections))
    if args.many:
        measure_memory(model, args.many)
    if ratio < LEAST_RATIO:
        raise SystemExit(f"below {LEAST_RATIO:.0f}x")


def built_in_probes(count: int) -> tuple[Probe, ...]:
    """Of the demo's corrections."""
    with resources.as_file(resources.files("corrigenda") / "data" / "demo_corrections.jsonl") as path:
        rows = formats.understand(path).good.to_pylist()
    return probes_of([correction_of(row) for row in rows[:count]])


def compare(model: LanguageModel, probes: Sequence[Probe]) -> float:
    """Seconds of the loop over seconds of `score`. Fast figures are worth nothing when they differ."""
    score(model, probes[:WARM_UP])
    start = time.perf_counter()
    table = score(model, probes)
    ours = time.perf_counter() - start
    loop(model, probes[:WARM_UP])
    start = time.perf_counter()
    plain = loop(model, probes)
    theirs = time.perf_counter() - start
    fast = [*table["logp_expected"].to_pylist(), *filter(None, table["logp_other"].to_pylist())]
    worst = max(abs(a - b) for a, b in zip(fast, plain, strict=True))
    assert worst < 1e-3, worst
    asked = len(probes)
    print(f"{asked} probes, {len(plain)} continuations; log-probabilities differ by at most {worst:.1e} nats")
    print(f"loop  {theirs:7.2f} s  {asked / theirs:7.1f} probes/s")
    print(f"score {ours:7.2f} s  {asked / ours:7.1f} probes/s  ratio {theirs / ours:.1f}x")
    return theirs / ours


@torch.inference_mode()
def loop(model: LanguageModel, probes: Sequence[Probe]) -> list[float]:
    """Mean log-probability of every continuation, one forward each: the expected ones, then the others."""
    found = []
    asked = [(p.prompt, p.expected) for p in probes]
    asked += [(p.prompt, p.other) for p in probes if p.other is not None]
    for prompt, continuation in asked:
        start = model.tokenizer(prompt)["input_ids"]
        wanted = model.tokenizer(f" {continuation}", add_special_tokens=False)["input_ids"]
        logits = model.network(torch.tensor([start + wanted], device=model.device)).logits[0]
        at = logits[len(start) - 1 : -1].float().log_softmax(-1)
        found.append(at[range(len(wanted)), wanted].mean().item())
    return found


def measure_memory(model: LanguageModel, count: int) -> None:
    """Seconds and peak memory of many probes, no two of which share a prompt."""
    facts = read_proxy_facts()
    probes = []
    for number in range(count):
        template, other = facts[number % len(facts)], facts[number * 7 % len(facts)]
        text = template.prompt.replace("{}", f"{other.subject} {number}")
        probes.append(make_probe(str(number), "fixed", text, "one", "two"))
    before, start = peak(), time.perf_counter()
    score(model, probes)
    seconds = time.perf_counter() - start
    print(f"{count} probes: {seconds:.1f} s, {count / seconds:.0f} probes/s, ", end="")
    print(f"peak {before:.2f} GB before, {peak():.2f} GB after")


def peak() -> float:
    """Resident memory of this process at its highest, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
