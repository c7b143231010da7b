"""Trial edits: all proxy facts edited at one layer in one batch, and how good the outcome is.

The same engine as a night's edit, with fewer contexts and little background text. The outcome is graded
softly, by shares of probability instead of counts, because thirty facts are few; and what the edit does to
other text counts against it, because a layer that says the facts and harms the model is no golden one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from corrigenda.config import Editing
from corrigenda.editing.contexts import generate_contexts
from corrigenda.editing.covariance import key_covariance
from corrigenda.editing.engine import find_targets, norm_cap_of, solve_balanced
from corrigenda.editing.taps import encode, text_losses
from corrigenda.facts import EditRequest, ProxyFact
from corrigenda.models.loading import LanguageModel
from corrigenda.models.sampling import sample_rows
from corrigenda.models.steady import products_in

# Without any context early layers look worse than they are: a name is put together there from few tokens.
# The metric of the background costs a backward pass and moves the outcome little.
TRUNCATED = Editing(contexts=1, key_contexts=4, metric="plain")
# Background text, sampled from the model: rows and tokens a row. Its second moment has low rank, hence the
# ridge. The rest of the rows is other text, on which the harm is measured.
ROWS, HELD_OUT, LENGTH = 32, 8, 64
RIDGE = 0.05
BATCH = 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """Shares of probability, means over facts, 0 … 1.

    efficacy        of the new answer against the true one, at the fact's prompt
    paraphrase      … at its rephrased prompt
    neighbourhood   of the neighbour's answer against the new one, at the neighbouring prompt
    drift           nats: KL divergence of the next token in other text from the base's
    """

    efficacy: float
    paraphrase: float
    neighbourhood: float
    drift: float

    @property
    def overall(self) -> float:
        """The mean of the three, less the share by which perplexity rises."""
        return (self.efficacy + self.paraphrase + self.neighbourhood) / 3 - math.expm1(self.drift)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is the same for the trials of all layers.

    background   (rows, length)  text whose keys an edit must leave alone
    held_out     (rows, length)  other text, on which the harm is measured
    base         (rows, length - 1, vocabulary) float16 log-probabilities of the base there
    contexts     texts before the prompts, the empty one first
    """

    background: Tensor
    held_out: Tensor
    base: Tensor
    contexts: tuple[str, ...]

    @classmethod
    def of(cls, model: LanguageModel, seed: int) -> Surroundings:
        rows = sample_rows(model, ROWS + HELD_OUT, LENGTH, seed)
        background, held_out = rows[:ROWS], rows[ROWS:]
        count, tokens = TRUNCATED.key_contexts, TRUNCATED.context_tokens
        contexts = generate_contexts(model, count, tokens, TRUNCATED.seed)
        with products_in(TRUNCATED.products, model.device):
            base = next_tokens(model, held_out).half()
        return cls(background, held_out, base, contexts)


def trial_of(model: LanguageModel, facts: Sequence[ProxyFact], *, seed: int = 0) -> Callable[[int], float]:
    """A function that edits the facts at a layer and says how good the outcome is; 1 is perfect.

    The model is as it was after each call. Facts without rephrase or neighbour count where they can.
    """
    around = Surroundings.of(model, seed)
    return lambda layer: try_layer(model, facts, layer, around).overall


def try_layer(model: LanguageModel, facts: Sequence[ProxyFact], layer: int, around: Surroundings) -> Outcome:
    """The outcome of one batch edit at `layer`; the weight is put back afterwards."""
    requests = [EditRequest(fact.subject, fact.prompt, fact.target_new) for fact in facts]
    cap = norm_cap_of(TRUNCATED)
    targets = find_targets(model, layer, requests, around.contexts, TRUNCATED, norm_cap=cap, cached={})
    covariance = key_covariance(model, [layer], around.background)[layer]
    covariance.diagonal().add_(RIDGE * covariance.diagonal().mean())
    update = solve_balanced(targets.known, covariance, TRUNCATED).update
    with model.trial(layer, update), products_in(TRUNCATED.products, model.device):
        return grade(model, facts, around)


@torch.inference_mode()
def next_tokens(model: LanguageModel, rows: Tensor) -> Tensor:
    """Log-probabilities (rows, length - 1, vocabulary) of each row's next tokens."""
    hidden = model.body(input_ids=rows.to(model.device), use_cache=False).last_hidden_state[:, :-1]
    return model.logits(hidden).log_softmax(-1)


def grade(model: LanguageModel, facts: Sequence[ProxyFact], around: Surroundings) -> Outcome:
    """How a model answers the facts' prompts, their rephrasings and their neighbours, and other text."""
    asked = [(fact.text, fact.target_new, fact.target_true) for fact in facts]
    again = [(fact.rephrase, fact.target_new, fact.target_true) for fact in facts if fact.rephrase]
    near = [
        (fact.neighbour.prompt, fact.neighbour.answer, fact.target_new) for fact in facts if fact.neighbour
    ]
    efficacy, paraphrase, neighbourhood = (mean_share(model, questions) for questions in (asked, again, near))
    return Outcome(efficacy, paraphrase, neighbourhood, drift_of(model, around))


def drift_of(model: LanguageModel, around: Surroundings) -> float:
    """Mean KL divergence of the next token from the base's over the held-out text, nats."""
    total = 0.0
    for rows, base in zip(torch.split(around.held_out, 4), torch.split(around.base, 4), strict=True):
        now = next_tokens(model, rows)
        total += float(kl_div(now, base.float(), reduction="sum", log_target=True))
    return total / around.held_out[:, 1:].numel()


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
