"""Targets: what the golden layer must add at the subject so that the model says the new fact.

MEMIT's objective (Meng et al. 2022, eq. 16 and the released code) for a whole batch of facts at once.
Only the suffix columns of the layers above the edited one are run, only the positions that predict a
target token see the vocabulary, and facts that have converged leave the batch. `reference_target` in
`editing/reference.py` is the same optimisation in its plain form; a property test holds them equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from corrigenda.config import Editing
from corrigenda.editing.descent import start
from corrigenda.errors import EditError
from corrigenda.facts import EditRequest
from corrigenda.models.loading import LanguageModel
from corrigenda.models.prompts import Row, align, encode
from corrigenda.models.upper import Prefilled, finish, prefill

VERSION = 1
# The prompt whose next-token distribution must not move: the subject stays what it is (ROME, eq. 4).
ESSENCE = "{} is a"


@dataclass(frozen=True, slots=True)
class Target:
    """What one fact asks of the edited layer; depends on the pristine base alone.

    keys      (contexts, d_in)  float32  inputs of the projection at the lookup, one row per context
    residual  (d_out,)          float32  wanted output minus present output
    loss      nats: mean NLL of the target over the contexts, as reached
    steps     gradient steps taken
    """

    keys: Tensor
    residual: Tensor
    loss: float
    steps: int


@dataclass(frozen=True, slots=True)
class FactRows:
    """One request as token rows: `prompts` carry the target, `essence` is cut at the lookup."""

    prompts: tuple[Row, ...]
    essence: Row | None

    @property
    def suffix(self) -> int:
        return max(len(row.tokens) - row.lookup for row in self.prompts)


def rows_of(model: LanguageModel, request: EditRequest, contexts: Sequence[str]) -> FactRows:
    """Token rows of a request, one per context.

    A lookup at position 0 stands on the attention sink, whose activations are enormous and alike for all
    texts: such rows are left out. Raises EditError when none remains.
    """
    tok = model.tokenizer
    rows = [encode(tok, request.prompt, request.subject, request.target, context) for context in contexts]
    kept = tuple(row for row in rows if row.lookup > 0)
    if not kept:
        raise EditError(
            "the subject's only token is the first of the text, where an edit would damage everything",
            remedy="Put a word before the subject, or let the editor use contexts (editing.contexts > 0)",
            subject=request.subject,
            prompt=request.prompt,
        )
    essence = encode(tok, ESSENCE, request.subject)
    cut = replace(essence, tokens=essence.tokens[: essence.lookup + 1])
    return FactRows(kept, cut if cut.lookup > 0 else None)


def optimise_targets(
    model: LanguageModel,
    layer: int,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    settings: Editing,
    *,
    norm_cap: float,
    batch: int = 32,
    advance: Callable[[int], None] = lambda _done: None,
) -> list[Target]:
    """Targets of all requests, in their order; memory is bounded by `batch` facts.

    norm_cap   |residual| at most this share of the hidden norm at the lookup
    advance    called with the number of facts finished
    """
    facts = [rows_of(model, request, contexts) for request in requests]
    order = sorted(range(len(facts)), key=lambda i: facts[i].suffix)
    found: dict[int, Target] = {}
    for first in range(0, len(order), batch):
        some = order[first : first + batch]
        done = _Batch.of(model, layer, [facts[i] for i in some]).optimise(model, settings, norm_cap)
        found.update(zip(some, done, strict=True))
        advance(len(some))
    return [found[i] for i in range(len(facts))]


@dataclass(slots=True)
class _Batch:
    """Facts that are optimised together, as two stacks of rows: prompts and essences.

    owner, essence_owner   (rows,)  the fact of each row
    row, column, token     (predictions,)  which hidden state predicts which target token
    share                  (predictions,)  weight of a prediction in its fact's mean
    essence_base           (essences, vocabulary)  log-probabilities of the base
    """

    facts: int
    prompts: Prefilled
    essences: Prefilled | None
    owner: Tensor
    essence_owner: Tensor
    row: Tensor
    column: Tensor
    token: Tensor
    share: Tensor
    essence_base: Tensor
    scale: Tensor  # (facts,) hidden norm at the lookup of the first row

    @classmethod
    def of(cls, model: LanguageModel, layer: int, facts: Sequence[FactRows]) -> _Batch:
        device = model.device
        rows = [row for fact in facts for row in fact.prompts]
        owner = [i for i, fact in enumerate(facts) for _ in fact.prompts]
        prompts = prefill(model, layer, align(rows, device=device))
        essences = [(i, fact.essence) for i, fact in enumerate(facts) if fact.essence is not None]
        stacked = (
            prefill(model, layer, align([row for _, row in essences], device=device)) if essences else None
        )
        with torch.no_grad():
            vocabulary = model.network.config.get_text_config().vocab_size
            base = (
                log_softmax(model.logits(stacked.final[:, 0]), -1)
                if stacked is not None
                else torch.empty(0, vocabulary, device=device)
            )
        spots = [
            (b, row.first_prediction + j - row.lookup, token, len(row.targets), owner[b])
            for b, row in enumerate(rows)
            for j, token in enumerate(row.targets)
        ]
        per_fact = [len(fact.prompts) for fact in facts]
        first = torch.tensor([owner.index(i) for i in range(len(facts))], device=device)

        def column(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device)

        return cls(
            facts=len(facts),
            prompts=prompts,
            essences=stacked,
            owner=column(owner),
            essence_owner=column([i for i, _ in essences]),
            row=column([s[0] for s in spots]),
            column=column([s[1] for s in spots]),
            token=column([s[2] for s in spots]),
            share=torch.tensor([1.0 / (s[3] * per_fact[s[4]]) for s in spots], device=device),
            essence_base=base,
            scale=prompts.hidden[first, 0].float().norm(dim=-1),
        )

    def select(self, keep: Tensor) -> _Batch:
        """The batch without the facts that have left; `keep` (facts,) bool."""
        renumber = keep.long().cumsum(0) - 1
        rows, essences = keep[self.owner], keep[self.essence_owner]
        spots = rows[self.row]
        new_row = rows.long().cumsum(0) - 1
        return _Batch(
            facts=int(keep.sum()),
            prompts=self.prompts.select(rows.nonzero()[:, 0]),
            essences=self.essences.select(essences.nonzero()[:, 0]) if self.essences is not None else None,
            owner=renumber[self.owner[rows]],
            essence_owner=renumber[self.essence_owner[essences]],
            row=new_row[self.row[spots]],
            column=self.column[spots],
            token=self.token[spots],
            share=self.share[spots],
            essence_base=self.essence_base[essences],
            scale=self.scale[keep],
        )

    def losses(self, model: LanguageModel, residual: Tensor, settings: Editing) -> tuple[Tensor, Tensor]:
        """MEMIT's objective of every fact, and the part of it that is the target's, nats, both (facts,).

        residual   (facts, d_out); the objective is differentiable in it
        """
        hidden = finish(model, self.prompts, residual[self.owner])
        logits = model.logits(hidden[self.row, self.column])
        each = cross_entropy(logits, self.token, reduction="none") * self.share
        nll = torch.zeros(self.facts, device=each.device).index_add(0, self.owner[self.row], each)
        loss = nll
        if self.essences is not None and settings.kl_weight and len(self.essence_owner):
            moved = finish(model, self.essences, residual[self.essence_owner])[:, 0]
            now = log_softmax(model.logits(moved), -1)
            drift = kl_div(self.essence_base, now, reduction="none", log_target=True).sum(-1)
            loss = loss.index_add(0, self.essence_owner, settings.kl_weight * drift)
        size: Tensor = residual.norm(dim=-1) / self.scale**2
        return loss + settings.norm_weight * size, nll.detach()

    def optimise(self, model: LanguageModel, settings: Editing, norm_cap: float) -> list[Target]:
        """Descend for every fact by itself, inside the ball of the norm cap."""
        width = self.prompts.projected.shape[-1]
        device = self.prompts.hidden.device
        keys = self.prompts.key.float().cpu()
        owner = self.owner.cpu()
        best = torch.zeros(self.facts, width, device=device)
        reached = torch.zeros(self.facts, device=device)
        steps = torch.zeros(self.facts, dtype=torch.long)
        alive = torch.arange(self.facts, device=device)
        batch, state = self, start(settings, self.scale, width)
        for step in range(settings.steps):
            residual = state.value.requires_grad_(True)
            losses, nll = batch.losses(model, residual, settings)
            best[alive], reached[alive] = residual.detach(), nll
            steps[alive.cpu()] = step
            going = nll >= settings.stop_loss
            if step == settings.steps - 1 or not bool(going.any()):
                break
            (gradient,) = torch.autograd.grad(losses.sum(), residual)
            state = state.step(gradient, step + 1).capped(norm_cap * batch.scale)
            # A fact that is below the stop loss keeps the residual it was measured with.
            if not bool(going.all()):
                batch, state, alive = batch.select(going), state.select(going), alive[going]
        return [
            Target(keys[owner == i], best[i].cpu(), float(reached[i]), int(steps[i]))
            for i in range(self.facts)
        ]
