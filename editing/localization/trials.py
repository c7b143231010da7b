"""Trial edits: all proxy facts edited at one layer in one batch, and how good the outcome is.

The same engine as a night's edit, with fewer contexts and the first part of the night's background text. The
outcome is graded softly, by shares of probability instead of counts, because thirty facts are few; and what
the edit does to other text counts against it, because a layer that says the facts and harms the model is no
golden one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from corrigenda.editing.background.contexts import generate_contexts
from corrigenda.editing.background.covariance import key_covariance
from corrigenda.editing.background.fisher import layer_metric
from corrigenda.editing.solve.joint import solve_balanced
from corrigenda.editing.solve.weight import OtherText
from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.engine import find_targets
from corrigenda.editing.targets.scale import FREE
from corrigenda.facts import EditRequest, ProxyFact
from corrigenda.models.batch_invariant import products_in
from corrigenda.models.hooks import encode, text_losses
from corrigenda.models.language_model import LanguageModel
from corrigenda.settings import NormalisedDescent, SolveSettings, TargetSettings

# Without any context early layers look worse than they are: a name is put together there from few tokens.
# Without the metric of other text, layers that need long residuals look as good as those that do not
# (docs/log). The descent is the one that the method was chosen with, whatever a night's has become.
MEASURED = NormalisedDescent(metric_tokens=4_096)
TRUNCATED = TargetSettings(
    contexts=1,
    key_contexts=4,
    steps=6,
    late_steps=0,
    kl_weight=0.25,
    warm_loss=0.15,
    stop_loss=0.15,
    descent=MEASURED,
)
_SOLVE = SolveSettings()
# Background text of a trial. With 2,048 tokens Gemma's layer 4 seems to raise perplexity by 11 %; with 8,192
# it is 1.5 %.
TOKENS = 8_192
# Other text, on which the harm is measured: at most so many tokens, at most so large a share of all.
HELD_OUT, SHARE = 2_048, 0.2
# The second moment of so little text has low rank, or nearly so.
_RIDGE = 0.01
BATCH, ROWS = 16, 4


@dataclass(frozen=True, slots=True)
class TrialOutcome:
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
    def of(cls, model: LanguageModel, text: Tensor) -> Surroundings:
        """From token rows of background text: its last rows are held out."""
        rows, length = text.shape
        apart = max(1, min(HELD_OUT // length, int(SHARE * rows)))
        background, held_out = text[: max(1, min(TOKENS // length, rows - apart))], text[rows - apart :]
        count, tokens = TRUNCATED.key_contexts, TRUNCATED.context_tokens
        contexts = generate_contexts(model, count, tokens, TRUNCATED.seed)
        with products_in(TRUNCATED.products, model.device):
            base = [next_tokens(model, part).half() for part in torch.split(held_out, ROWS)]
        return cls(background, held_out, torch.cat(base), contexts)


def trial_of(model: LanguageModel, facts: Sequence[ProxyFact], text: Tensor) -> Callable[[int], float]:
    """A function that edits the facts at a layer and says how good the outcome is; 1 is perfect.

    text   (rows, length) token ids of background text

    The model is as it was after each call. Facts without rephrase or neighbour count where they can.
    """
    around = Surroundings.of(model, text)
    return lambda layer: try_layer(model, facts, layer, around).overall


def try_layer(
    model: LanguageModel, facts: Sequence[ProxyFact], layer: int, around: Surroundings
) -> TrialOutcome:
    """The outcome of one batch edit at `layer`; the weight is put back afterwards."""
    requests = [EditRequest(fact.subject, fact.prompt, fact.target_new) for fact in facts]
    measured = around.background[: max(1, MEASURED.metric_tokens // around.background.shape[1])]
    targets = find_targets(
        model,
        Band.single(layer),
        requests,
        around.contexts,
        TRUNCATED,
        norm_cap=FREE,
        cached={},
        metric=layer_metric(model, layer, measured, products=TRUNCATED.products)[None],
    )
    covariance = key_covariance(model, [layer], around.background)[layer]
    covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean())
    other = OtherText.of(model.linear_map(layer), covariance)
    (update,) = solve_balanced(targets.known, [other], _SOLVE).updates
    with model.trial({layer: update}), products_in(TRUNCATED.products, model.device):
        return grade(model, facts, around)


@torch.inference_mode()
def next_tokens(model: LanguageModel, rows: Tensor) -> Tensor:
    """Log-probabilities (rows, length - 1, vocabulary) of each row's next tokens."""
    hidden = model.body(input_ids=rows.to(model.device), use_cache=False).last_hidden_state[:, :-1]
    return model.logits(hidden).log_softmax(-1)


def grade(model: LanguageModel, facts: Sequence[ProxyFact], around: Surroundings) -> TrialOutcome:
    """How a model answers the facts' prompts, their rephrasings and their neighbours, and other text."""
    asked = [(fact.text, fact.target_new, fact.target_true) for fact in facts]
    again = [(fact.rephrase, fact.target_new, fact.target_true) for fact in facts if fact.rephrase]
    near = [
        (fact.neighbour.prompt, fact.neighbour.answer, fact.target_new) for fact in facts if fact.neighbour
    ]
    efficacy, paraphrase, neighbourhood = (mean_share(model, questions) for questions in (asked, again, near))
    return TrialOutcome(efficacy, paraphrase, neighbourhood, drift_of(model, around))


def drift_of(model: LanguageModel, around: Surroundings) -> float:
    """Mean KL divergence of the next token from the base's over the held-out text, nats."""
    total = 0.0
    for rows, base in zip(torch.split(around.held_out, ROWS), torch.split(around.base, ROWS), strict=True):
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
        shares.append(torch.sigmoid(wrong - right).cpu().double())
    return shares
