"""Trial edits: all proxy facts edited at one layer in one truncated batch, and how good the outcome is.

The same engine as a night's edit, with fewer gradient steps, no contexts and little background text. The
outcome is graded softly: shares of probability instead of counts, because thirty facts are few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corrigenda.config import Editing
from corrigenda.editing.covariance import key_covariance
from corrigenda.editing.engine import find_targets, solve_targets
from corrigenda.editing.taps import encode, text_losses
from corrigenda.facts import EditRequest, ProxyFact
from corrigenda.models.loading import LanguageModel
from corrigenda.models.sampling import sample_rows

TRUNCATED = Editing(warm_steps=0, steps=10, contexts=0, stop_loss=0.2)
NORM_CAP = 0.75
WEIGHT = 15.0
# Background text: rows and tokens a row. Its second moment has low rank, hence the ridge.
ROWS, LENGTH = 32, 64
RIDGE = 0.05
BATCH = 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """Shares of probability, means over facts, 0 … 1.

    efficacy        of the new answer against the true one, at the fact's prompt
    paraphrase      … at its rephrased prompt
    neighbourhood   of the neighbour's answer against the new one, at the neighbouring prompt
    """

    efficacy: float
    paraphrase: float
    neighbourhood: float

    @property
    def overall(self) -> float:
        return (self.efficacy + self.paraphrase + self.neighbourhood) / 3


def trial_of(model: LanguageModel, facts: Sequence[ProxyFact], *, seed: int = 0) -> Callable[[int], float]:
    """A function that edits the facts at a layer and says how good the outcome is, 0 … 1.

    The model is as it was after each call. Facts without rephrase or neighbour count where they can.
    """
    background = sample_rows(model, ROWS, LENGTH, seed)
    return lambda layer: try_layer(model, facts, layer, background).overall


def try_layer(model: LanguageModel, facts: Sequence[ProxyFact], layer: int, background: Tensor) -> Outcome:
    """The outcome of one truncated batch edit at `layer`; the weight is put back afterwards."""
    requests = [EditRequest(fact.subject, fact.prompt, fact.target_new) for fact in facts]
    targets = find_targets(model, layer, requests, ("",), TRUNCATED, norm_cap=NORM_CAP, cached={})
    covariance = key_covariance(model, [layer], background)[layer]
    covariance.diagonal().add_(RIDGE * covariance.diagonal().mean())
    update = solve_targets(targets.known, covariance, TRUNCATED, weight=WEIGHT)
    with model.trial(layer, update):
        return grade(model, facts)


def grade(model: LanguageModel, facts: Sequence[ProxyFact]) -> Outcome:
    """How a model answers the facts' prompts, their rephrasings and their neighbours."""
    asked = [(fact.text, fact.target_new, fact.target_true) for fact in facts]
    again = [(fact.rephrase, fact.target_new, fact.target_true) for fact in facts if fact.rephrase]
    near = [
        (fact.neighbour.prompt, fact.neighbour.answer, fact.target_new) for fact in facts if fact.neighbour
    ]
    return Outcome(*(mean_share(model, questions) for questions in (asked, again, near)))


def mean_share(model: LanguageModel, questions: Sequence[tuple[str, str, str]]) -> float:
    """Mean over (prompt, wanted, rival) of P(wanted) / (P(wanted) + P(rival)), per-token geometric means.

    0.5, which is indifferent, when there is no question.
    """
    if not questions:
        return 0.5
    return float(torch.cat(_shares(model, questions)).mean())


def _shares(model: LanguageModel, questions: Sequence[tuple[str, str, str]]) -> list[Tensor]:
    shares = []
    for start in range(0, len(questions), BATCH):
        prompts, wanted, rivals = zip(*questions[start : start + BATCH], strict=True)
        with torch.inference_mode():
            right = text_losses(model, encode(model, prompts, wanted), "answer")
            wrong = text_losses(model, encode(model, prompts, rivals), "answer")
        shares.append(torch.sigmoid(wrong - right).double().cpu())
    return shares
