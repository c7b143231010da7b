"""The figures agree to the last digit with an evaluator written from CounterFact's definitions.

That is bench/evaluator.py: plain transformers on a checkpoint directory, nothing shared with the code under
test. `make bench-agreement` does the same with a published release of a real model.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

import pytest
import torch

from corrigenda.config import Gates
from corrigenda.facts import Neighbour
from corrigenda.validation.base_scores import score_base
from corrigenda.validation.gates import verdict
from corrigenda.validation.probes import probes_of
from corrigenda.validation.rows import judge
from corrigenda.validation.scoring import score

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench.evaluator import Evaluator
from bench.quality import figures as quality_figures


def says(model, prompt: str, target: str) -> bool:
    tokens = model.tokenizer(prompt)["input_ids"]
    for token in model.tokenizer(f" {target}", add_special_tokens=False)["input_ids"]:
        if model.network(torch.tensor([tokens])).logits[0, -1].argmax().item() != token:
            return False
        tokens = [*tokens, token]
    return True


def evaluate(model, corrections, directory: Path) -> dict[str, float]:
    model.network.save_pretrained(directory)
    model.tokenizer.save_pretrained(directory)
    records = [
        {
            "subject": c.subject, "prompt": c.prompt, "new": c.target_new, "true": c.target_old,
            "paraphrases": c.paraphrases, "neighbours": [n.prompt for n in c.neighborhood],
        }
        for c in corrections
    ]  # fmt: skip
    said = fmean(says(model, c.request.text, c.target_new) for c in corrections)
    return Evaluator(directory).scores(records) | {"said": said}


@pytest.fixture(scope="module")
def corrections(make_correction):
    """Uneven numbers of paraphrases and neighbours, so that the order of the means shows."""
    made = [make_correction(i) for i in range(20)]
    uneven = []
    extra = Neighbour("Gus was born in", "")
    for number, plain in enumerate(made):
        near = tuple(
            replace(n, answer=plain.target_old) for n in (*plain.neighborhood, extra)[: 2 + number % 2]
        )
        uneven.append(replace(plain, paraphrases=plain.paraphrases[: 1 + number % 2], neighborhood=near))
    return uneven


def test_figures_are_those_of_the_plain_evaluator(model, corrections, tmp_path):
    candidate = replace(model, network=copy.deepcopy(model.network))
    torch.manual_seed(1)
    with torch.no_grad():
        candidate.weight(1).add_(0.3 * torch.randn_like(candidate.weight(1)))
    base = score_base(model, probes_of(corrections))
    rows = judge(
        base.probes, base.scores, score(candidate, base.probes),
        run_id="r", model="m", release=1, scored_at=datetime.now(UTC),
    )  # fmt: skip
    figures = verdict(rows, Gates()).figures
    before, after = (
        evaluate(model, corrections, tmp_path / "a"),
        evaluate(candidate, corrections, tmp_path / "b"),
    )
    for name in ("es", "ps", "ns", "said"):
        assert (figures[f"{name}_before"], figures[name]) == (before[name], after[name]), name
    assert after["ns"] != before["ns"], "an edit that changes nothing proves nothing"
    counted = quality_figures(candidate, base.probes, torch.tensor([[1, 2, 3]]))
    names = {"es": "rewrite", "ps": "paraphrase", "ns": "locality"}
    assert {n: counted[k] for n, k in names.items()} == {n: after[f"{n}_by_prompt"] for n in names}
