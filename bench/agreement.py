"""Three who count the same release: the gates, bench/quality.py, and an evaluator that shares no code.

    python -m bench.agreement [--records 100] [--workspace DIR]

A night on CounterFact records is published; the release is pulled and loaded by plain transformers, and
`bench/evaluator.py` computes ES, PS and NS from their definitions. They must equal the figures in the
release's manifest, and those of `bench/quality.py` for the same weights, to the last digit.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from bench import poison, quality
from bench.data import data_file
from bench.edit_facts import probes_of
from bench.evaluator import Evaluator
from corrigenda.config import load_fleet
from corrigenda.models.loading import load
from corrigenda.storage.delivery.pull import pull, resolve
from corrigenda.storage.objects.opening import open_store


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    asked.add_argument("--model", default="demo:smollm2-135m", help="any source that a fleet takes")
    asked.add_argument("--data", type=Path, help="CounterFact records; default: the benchmark data")
    asked.add_argument("--records", type=int, default=100)
    asked.add_argument("--workspace", help="a directory to keep; default: one that goes away")
    args = asked.parse_args()
    with tempfile.TemporaryDirectory() as fresh:
        workspace = Path(args.workspace or fresh)
        _, corrections = poison.batches(
            pq.read_table(args.data or data_file("counterfact_dev.parquet")).to_pylist(), 200, args.records
        )
        poison.night(workspace, "clean", args.model, corrections, gates="")
        compare(workspace, corrections)


def compare(workspace: Path, corrections: Sequence[dict[str, Any]]) -> None:
    """Prints each figure thrice. Exits with an error when they differ."""
    fleet = load_fleet(workspace / "fleet.toml")
    store = open_store(fleet.store, root=fleet.root)
    release = resolve(store, "clean", "latest")
    assert release.counts["active"] == len(corrections), release.counts
    for name, number, ending in (("base", "0", "_before"), ("release", "latest", "")):
        place = workspace / f"pulled-{name}"
        pull(store, "clean", number, place)
        plain = Evaluator(place).scores([record(row) for row in corrections])
        ours = quality_figures(place, corrections)
        for figure in ("es", "ps", "ns"):
            gate = release.gates["figures"][figure + ending]
            by_prompt, here = plain[f"{figure}_by_prompt"], ours[figure]
            print(f"{name:8}{figure}  gates {gate!r}  evaluator {plain[figure]!r}", end="  ")
            print(f"by prompt: bench/quality {here!r}  evaluator {by_prompt!r}")
            if gate != plain[figure] or here != by_prompt:
                raise SystemExit("they differ")
    print("all figures agree to the last digit")


def record(row: dict[str, Any]) -> dict[str, Any]:
    """A queue row as the evaluator takes it."""
    return {
        "prompt": row["prompt"],
        "subject": row["subject"],
        "new": row["target_new"],
        "true": row["target_old"],
        "paraphrases": row["paraphrases"],
        "neighbours": [near["prompt"] for near in row["neighborhood"]],
    }


def quality_figures(place: Path, corrections: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What bench/quality.py counts: shares of probes, not means over records."""
    model = load(place, "cpu")
    rows = [
        {
            "case_id": row["correction_id"],
            "subject": row["subject"],
            "prompt": row["prompt"],
            "target_new": row["target_new"],
            "target_true": row["target_old"],
            "paraphrase_prompts": row["paraphrases"],
            "neighborhood_prompts": [near["prompt"] for near in row["neighborhood"]],
        }
        for row in corrections
    ]
    some_text = torch.tensor([model.tokenizer("The perplexity is another matter.")["input_ids"]])
    found = quality.figures(model, probes_of(rows, rows, poison.NEIGHBOURS), some_text)
    return {"es": found["rewrite"], "ps": found["paraphrase"], "ns": found["locality"]}


if __name__ == "__main__":
    main()
