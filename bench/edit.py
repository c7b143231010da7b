"""Speed and agreement of the engine against MEMIT's plain algorithm, on the same facts, in one process.

    python -m bench.edit --facts 32 --reference 2

The reference optimises one fact at a time with full forward passes, 25 Adam steps and 6 contexts, as the
released code does; it is timed on a few of the facts. Quality: loss reached, and what a joint solve of each
one's targets makes the model say.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pyarrow.parquet as pq

from corrigenda.config import Editing
from corrigenda.editing import contexts
from corrigenda.editing.engine import strength
from corrigenda.editing.reference import reference_target
from corrigenda.editing.targets import optimise_targets
from corrigenda.facts import EditRequest
from corrigenda.models.loading import load
from corrigenda.models.sources import resolve

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "counterfact_dev.parquet"
# kmeng01/memit's settings for its objective.
PLAIN = Editing(optimiser="adam", steps=25, learning_rate=0.5, contexts=5, kl_weight=0.0625, stop_loss=0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo:smollm2-135m", help="any source that a fleet takes")
    parser.add_argument("--facts", type=int, default=32)
    parser.add_argument("--reference", type=int, default=2, help="facts that the plain algorithm gets")
    parser.add_argument("--layer", type=int, default=8)
    asked = parser.parse_args()
    model = load(resolve(asked.model, root=ROOT))
    records = pq.read_table(DATA).to_pylist()[1::2][: asked.facts]
    requests = [EditRequest(r["subject"], r["prompt"], r["target_new"]) for r in records]
    ours = Editing()
    start = time.perf_counter()
    fast = optimise_targets(
        model,
        asked.layer,
        requests,
        contexts.generate_contexts(model, ours.contexts, ours.context_tokens, 0),
        ours,
        norm_cap=strength(ours)[1],
    )
    fast_s = (time.perf_counter() - start) / len(requests)
    openings = contexts.generate_contexts(model, PLAIN.contexts, PLAIN.context_tokens, 0)
    start = time.perf_counter()
    plain = [
        reference_target(model, asked.layer, request, openings, PLAIN, norm_cap=0.75)
        for request in requests[: asked.reference]
    ]
    plain_s = (time.perf_counter() - start) / len(plain)
    print(f"engine     {fast_s:.3f} s a fact, mean loss {sum(t.loss for t in fast) / len(fast):.3f}")
    print(f"reference  {plain_s:.3f} s a fact, mean loss {sum(t.loss for t in plain) / len(plain):.3f}")
    print(f"ratio      {plain_s / fast_s:.1f}x")


if __name__ == "__main__":
    main()
