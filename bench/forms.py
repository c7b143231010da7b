"""What an edited model says in each form of asking, and what it can still do: validation's own figures.

    python -m bench.forms --facts demo --layer 10
    python -m bench.forms --facts counterfact --count 200 --layer 8 --half report
    python -m bench.forms --facts wikibigedit --count 200 --capability 1000

Facts are the demo's 64, CounterFact records, or real changes of Wikidata, whose prompts are questions.
Edited is one layer in one solve, as a night does it; asked is the plain prompt, the paraphrases, the
question, and the question in the model's chat template. `--capability N` asks N LAMBADA and N BLiMP items of
base and edit, in pairs. Targets are kept in bench/results/quality.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from bench import quality
from bench.data import ROOT, data_file
from bench.edit_facts import HALVES
from bench.grounds import Ground, text
from bench.surface import surface
from corrigenda.config import Gates
from corrigenda.facts import Correction, Neighbour
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.loading import load
from corrigenda.models.sources import resolve
from corrigenda.settings import Editing
from corrigenda.storage.corrections.formats import understand
from corrigenda.storage.corrections.proxy_facts import read_proxy_facts
from corrigenda.storage.corrections.schemas import correction_of
from corrigenda.validation.encoding import has_chat
from corrigenda.validation.gates import Verdict, verdict
from corrigenda.validation.probes import Probe, built_in_capability, make_probe, probes_of
from corrigenda.validation.rows import judge
from corrigenda.validation.scoring import score

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
SHOWN = (
    ("plain", "said", "said_old"),
    ("paraphrase", "said_paraphrase", ""),
    ("question", "question", ""),
    ("chat", "chat", "chat_old"),
    ("paraphrase likelier", "paraphrase", ""),
    ("ES", "es", ""),
    ("PS", "ps", ""),
    ("NS", "ns", ""),
)


def main() -> None:
    asked = arguments()
    model = load(resolve(asked.model, root=ROOT))
    settings = quality.settings_of(asked.set)
    corrections = facts(asked.facts, asked.count, asked.half)
    updates = edit(model, asked, corrections, settings)
    start = time.perf_counter()
    items = capability(asked.capability, asked.half)
    study = surface(corrections) if asked.surface else {}
    probes = {"edited": probes_of(corrections, pool=read_proxy_facts(), chat=has_chat(model.tokenizer))}
    probes |= items | study
    before = {name: score(model, some) for name, some in probes.items()}
    held_out = text(model, "wikitext_dev.parquet", 8_192, 512)
    base = quality.perplexity(model, held_out)
    with model.trial(updates):
        after = {name: score(model, some) for name, some in probes.items()}
        rise = quality.perplexity(model, held_out) / base - 1
    print(f"{len(corrections)} facts of {asked.facts}, layer {asked.layer}; ", end="")
    print(f"perplexity {base:.2f} {rise:+.2%}; asked in {time.perf_counter() - start:.0f} s", flush=True)
    found = {name: judged(probes[name], before[name], after[name]) for name in probes}
    show(verdict(found["edited"], Gates()))
    for name in items:
        show_capability(name, verdict(found[name], Gates()))
    for name in study:
        show_surface(name, verdict(found[name], Gates()))
    if asked.answers:
        pq.write_table(pa.concat_tables(found.values()), asked.answers)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--model", default="demo:smollm2-135m", help="any source that a fleet takes")
    add("--facts", choices=["demo", "counterfact", "wikibigedit"], default="demo")
    add("--count", type=int, default=200)
    add("--half", choices=sorted(HALVES), default="report")
    add("--layer", type=int, default=10)
    add("--set", action="append", default=[], metavar="NAME=JSON", help="an editing setting")
    add("--background-tokens", type=int, default=60_000)
    add("--corpus", default="wikitext", help="wikitext, or self: text sampled from the model")
    add("--capability", type=int, default=0, help="LAMBADA and BLiMP items, each")
    add("--surface", action="store_true", help="ask whether the edit is more than its sentence")
    add("--answers", help="a Parquet file for all rows")
    return parser.parse_args()


def facts(name: str, count: int, half: str) -> list[Correction]:
    """Corrections of one source; of the demo all, of the others `count` of one half."""
    if name == "demo":
        with resources.as_file(resources.files("corrigenda") / "data" / "demo_corrections.jsonl") as path:
            return [correction_of(row) for row in understand(path).good.to_pylist()]
    rows = pq.read_table(data_file(f"{name}_dev.parquet")).to_pylist()[HALVES[half]]
    make = of_counterfact if name == "counterfact" else of_wikibigedit
    unique = {(row["subject"], row["prompt"]): row for row in rows}
    return [make(number, row) for number, row in enumerate(list(unique.values())[:count])]


def of_counterfact(number: int, row: dict[str, Any]) -> Correction:
    return Correction(
        correction_id=f"counterfact-{number}",
        subject=row["subject"],
        prompt=row["prompt"],
        target_new=row["target_new"],
        target_old=row["target_true"],
        paraphrases=tuple(row["paraphrase_prompts"]),
        neighborhood=tuple(Neighbour(p, row["target_true"]) for p in row["neighborhood_prompts"][:5]),
        asserted_at=NOON,
    )


def of_wikibigedit(number: int, row: dict[str, Any]) -> Correction:
    return Correction(
        correction_id=f"wikibigedit-{number}",
        subject=row["subject"],
        prompt=row["prompt"],
        target_new=row["target_new"],
        paraphrases=(row["rephrase"],),
        neighborhood=(Neighbour(row["locality_prompt"], row["locality_answer"]),),
        asserted_at=NOON,
    )


def edit(
    model: LanguageModel, asked: argparse.Namespace, corrections: Sequence[Correction], settings: Editing
) -> dict[int, Tensor]:
    """The updates of one solve over all facts, by layer."""
    kept = quality.RESULTS
    ground = Ground.of(
        model, asked.layer, settings, tokens=asked.background_tokens, source=asked.corpus, kept=kept
    )
    print(f"layers {ground.band.layers}, norm cap {ground.norm_cap:g}", flush=True)
    records = [{"subject": c.subject, "prompt": c.prompt, "target_new": c.target_new} for c in corrections]
    known = quality.targets(ground, asked, records)
    solve, updates = quality.timed_solve(known, ground)
    print(solve, flush=True)
    return updates


def capability(count: int, half: str) -> dict[str, tuple[Probe, ...]]:
    """The built-in items, and as many of LAMBADA and BLiMP as are asked for."""
    found = {"built-in": built_in_capability()}
    if count:
        found["LAMBADA"] = tuple(lambada(some(pq.read_table(data_file("lambada_dev.parquet")), count, half)))
        rows = some(pq.read_table(data_file("blimp_dev.parquet")), count, half)
        found["BLiMP"] = tuple(make_probe("", "capability", "", row["good"], row["bad"]) for row in rows)
    return found


def some(table: pa.Table, count: int, half: str) -> list[dict[str, Any]]:
    """`count` rows of one half, evenly taken."""
    rows: list[dict[str, Any]] = table.to_pylist()[HALVES[half]]
    return rows[:: max(1, len(rows) // count)][:count]


def lambada(rows: Iterable[dict[str, Any]]) -> Iterable[Probe]:
    """The last word is to be told by greedy decoding (Paperno et al. 2016)."""
    for row in rows:
        context, _, last = row["text"].rpartition(" ")
        yield make_probe("", "capability", context, last, None)


def judged(probes: Sequence[Probe], before: pa.Table, after: pa.Table) -> pa.Table:
    return judge(probes, before, after, run_id="forms", model="", scored_at=datetime.now(UTC))


def show(found: Verdict) -> None:
    """A table: each form before and after, with its interval, and how often the old answer comes back."""
    figures = found.figures
    print("| form | base | edited | 95 % | old answer, base | old answer |\n|---|---|---|---|---|---|")
    for label, name, old in SHOWN:
        if figures.get(name) is not None:
            low, high = found.intervals[name]
            told = (
                figures.get(f"{name}_before"),
                figures[name],
                figures.get(f"{old}_before"),
                figures.get(old),
            )
            was, now, old_was, old_now = ("" if one is None else f"{one:.3f}" for one in told)
            print(f"| {label} | {was} | {now} | {low:.3f} to {high:.3f} | {old_was} | {old_now} |")
    every, with_one = (figures[name] or 0 for name in ("corrections", "with_question"))
    print(f"without a question: {every - with_one:.0f} of {every:.0f}")


def show_capability(name: str, found: Verdict) -> None:
    gate = next(gate for gate in found.gates if gate.gate == "capability_drop")
    figures = found.figures
    print(
        f"{name}: {figures['probes']} items, {figures['capability_before']:.4f} before, "
        f"{figures['capability']:.4f} after, drop {gate.figure:+.4f} ({gate.low:+.4f} to {gate.high:+.4f})"
    )


def show_surface(name: str, found: Verdict) -> None:
    figures, (low, high) = found.figures, found.intervals["fixed"]
    print(f"{name}: {figures['fixed_before']:.3f} before, {figures['fixed']:.3f} after ", end="")
    print(f"({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
