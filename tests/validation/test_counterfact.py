"""The figures agree to the last digit with an evaluator written from CounterFact's definitions.

ES: share of edit prompts with P(new) > P(old). PS: the same over paraphrases. NS: share of neighbourhood
prompts with P(true) > P(new). P by the mean negative log-likelihood a token; each case's mean first, then
the mean over cases. One text per forward, nothing shared with the code under test but the model.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import UTC, datetime
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


def nll(model, prompt: str, target: str) -> float:
    start = model.tokenizer(prompt)["input_ids"]
    wanted = model.tokenizer(f" {target}", add_special_tokens=False)["input_ids"]
    logits = model.network(torch.tensor([start + wanted])).logits[0].double().log_softmax(-1)
    return -fmean(logits[len(start) - 1 + i, token].item() for i, token in enumerate(wanted))


def says(model, prompt: str, target: str) -> bool:
    tokens = model.tokenizer(prompt)["input_ids"]
    for token in model.tokenizer(f" {target}", add_special_tokens=False)["input_ids"]:
        if model.network(torch.tensor([tokens])).logits[0, -1].argmax().item() != token:
            return False
        tokens = [*tokens, token]
    return True


def evaluate(model, corrections) -> dict[str, float]:
    def success(prompts, new, old):
        return fmean(nll(model, prompt, new) < nll(model, prompt, old) for prompt in prompts)

    return {
        "es": fmean(success([c.request.text], c.target_new, c.target_old) for c in corrections),
        "ps": fmean(success(c.paraphrases, c.target_new, c.target_old) for c in corrections),
        "ns": fmean(
            fmean(nll(model, n.prompt, n.answer) < nll(model, n.prompt, c.target_new) for n in c.neighborhood)
            for c in corrections
        ),
        "efficacy": fmean(says(model, c.request.text, c.target_new) for c in corrections),
    }


@pytest.fixture(scope="module")
def corrections(make_correction):
    """Uneven numbers of paraphrases and neighbours, so that the order of the means shows."""
    made = [make_correction(i) for i in range(20)]
    uneven = []
    extra = Neighbour("Gus was born in", "Saint Petersburg")
    for number, plain in enumerate(made):
        near = (*plain.neighborhood, extra)[: 2 + number % 2]
        uneven.append(replace(plain, paraphrases=plain.paraphrases[: 1 + number % 2], neighborhood=near))
    return [c for c in uneven if all(n.answer != c.target_new for n in c.neighborhood)]


def test_figures_are_those_of_the_plain_evaluator(model, corrections):
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
    before, after = evaluate(model, corrections), evaluate(candidate, corrections)
    assert {name: figures[name] for name in after} == after
    assert {name: figures[f"{name}_before"] for name in before} == before
    assert after["ns"] != before["ns"], "an edit that changes nothing proves nothing"
