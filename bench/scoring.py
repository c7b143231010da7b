"""Scoring as validation does it, against a plain loop of one prompt per forward, on a real model.

    python -m bench.scoring [--model demo:smollm2-135m] [--corrections 64] [--many 10000]

Both sides answer the same probes (those of the built-in demo corrections) in one run and must agree; prints
the ratio, by the clock and by processor time, and fails when the clock's is below 8. The loop is
`reference_score`: a forward for each continuation, and one for each token of greedy decoding that those have
not shown. `--many 10000` scores that many made-up probes as well, after a tenth of them, and prints the peak
of resident memory behind each: it is the batch that takes memory, not the number of probes.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from corrigenda.models.language_model import LanguageModel
from corrigenda.models.loading import load
from corrigenda.models.sources import resolve
from corrigenda.storage.corrections import formats
from corrigenda.storage.corrections.proxy_facts import read_proxy_facts
from corrigenda.storage.corrections.schemas import correction_of
from corrigenda.validation.probes import Probe, make_probe, probes_of
from corrigenda.validation.scoring import reference_score, score

LEAST_RATIO = 8.0
WARM_UP = 8  # probes that either side answers before the clock starts

Scorer = Callable[[LanguageModel, Sequence[Probe]], pa.Table]


class Took(NamedTuple):
    """Seconds by the clock, and of processor time over all threads."""

    clock: float
    cpu: float


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("--model", default="demo:smollm2-135m", help="a directory or a source")
    asked.add_argument("--corrections", type=int, default=64)
    asked.add_argument("--many", type=int, default=0)
    args = asked.parse_args()
    model = load(resolve(args.model, root=Path.cwd()))
    ratio = compare(model, built_in_probes(args.corrections))
    if args.many:
        for count in (args.many // 10, args.many):
            measure_memory(model, count)
    if ratio < LEAST_RATIO:
        raise SystemExit(f"below {LEAST_RATIO:.0f}x")


def built_in_probes(count: int) -> tuple[Probe, ...]:
    """Of the demo's corrections."""
    with resources.as_file(resources.files("corrigenda") / "data" / "demo_corrections.jsonl") as path:
        rows = formats.understand(path).good.to_pylist()
    return probes_of([correction_of(row) for row in rows[:count]])


def compare(model: LanguageModel, probes: Sequence[Probe]) -> float:
    """Seconds of the loop over seconds of `score`."""
    fast, ours = timed(score, model, probes)
    plain, theirs = timed(reference_score, model, probes)
    check(fast, plain)
    for name, side in (("loop", theirs), ("score", ours)):
        print(
            f"{name:6}{side.clock:8.2f} s {side.cpu:8.2f} s of CPU {len(probes) / side.clock:8.1f} probes/s"
        )
    ratio = theirs.clock / ours.clock
    print(f"{len(probes)} probes, ratio {ratio:.1f}x by the clock, {theirs.cpu / ours.cpu:.1f}x by CPU time")
    return ratio


def timed(scorer: Scorer, model: LanguageModel, probes: Sequence[Probe]) -> tuple[pa.Table, Took]:
    """What `scorer` says, and how long it took, once it is warm."""
    scorer(model, probes[:WARM_UP])
    clock, cpu = time.perf_counter(), time.process_time()
    table = scorer(model, probes)
    return table, Took(time.perf_counter() - clock, time.process_time() - cpu)


def check(fast: pa.Table, plain: pa.Table) -> None:
    """Fast figures are worth nothing when they are other figures."""
    for column in ("rank", "says", "begins"):
        pairs = zip(fast[column].to_pylist(), plain[column].to_pylist(), strict=True)
        # Two tokens within rounding of one another may change places.
        assert sum(a == b for a, b in pairs) >= 0.99 * fast.num_rows, column
    for column in ("logp_expected", "logp_other"):
        pairs = zip(fast[column].to_pylist(), plain[column].to_pylist(), strict=True)
        assert all(a == b or abs(a - b) < 1e-3 for a, b in pairs), column


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
