"""MEMIT's objective (Meng et al. 2022, eq. 16 and the released code) for a whole batch of facts at once.

Only the suffix columns of the layers above the edited one are run, and only the positions that predict a
target token see the vocabulary. `editing/reference.py` holds the plain form; a property test holds them
equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from corrigenda.config import Editing
from corrigenda.models.loading import LanguageModel
from corrigenda.models.prompts import Row, align
from corrigenda.models.upper import Prefilled, finish, prefill


@dataclass(frozen=True, slots=True)
class FactRows:
    """What a group of requests is optimised on, as token rows.

    behind    per context, one row for each request; the plain prompts come first
    essence   a prompt whose next-token distribution must not move, cut at the lookup
    """

    behind: tuple[tuple[Row, ...], ...]
    essence: Row | None

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for rows in self.behind for row in rows)

    @property
    def suffix(self) -> int:
        return max(len(row.tokens) - row.lookup for row in self.behind[0])

    def first(self, contexts: int) -> FactRows:
        """The same behind the first few contexts only."""
        return replace(self, behind=self.behind[:contexts])


@dataclass(slots=True)
class Batch:
    """Facts that are optimised together, as two stacks of rows: prompts and essences.

    owner, essence_owner   (rows,)  the fact of each row
    row, column, token     (predictions,)  which hidden state predicts which target token
    share                  (predictions,)  weight of a prediction in its fact's mean
    essence_base           (essences, vocabulary)  log-probabilities of the base
    scale                  (facts,)  hidden norm at the lookup of the fact's first row
    """

    model: LanguageModel
    settings: Editing
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
    scale: Tensor

    @classmethod
    def of(cls, model: LanguageModel, layer: int, facts: Sequence[FactRows], settings: Editing) -> Batch:
        device = model.device
        rows = [row for fact in facts for row in fact.rows]
        owner = [i for i, fact in enumerate(facts) for _ in fact.rows]
        prompts = prefill(model, layer, align(rows, device=device))
        essences = [(i, fact.essence) for i, fact in enumerate(facts) if fact.essence is not None]
        stacked = (
            prefill(model, layer, align([row for _, row in essences], device=device)) if essences else None
        )
        spots = [
            (b, row.first_prediction + j - row.lookup, token, 1 / (len(row.targets) * owner.count(owner[b])))
            for b, row in enumerate(rows)
            for j, token in enumerate(row.targets)
        ]
        first = torch.tensor([owner.index(i) for i in range(len(facts))], device=device)

        def column(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long, device=device)

        return cls(
            model=model,
            settings=settings,
            facts=len(facts),
            prompts=prompts,
            essences=stacked,
            owner=column(owner),
            essence_owner=column([i for i, _ in essences]),
            row=column([s[0] for s in spots]),
            column=column([s[1] for s in spots]),
            token=column([s[2] for s in spots]),
            share=torch.tensor([s[3] for s in spots], device=device),
            essence_base=_unedited(model, stacked),
            scale=prompts.hidden[first, 0].float().norm(dim=-1),
        )

    def select(self, keep: Tensor) -> Batch:
        """The batch without the facts that have left; `keep` (facts,) bool."""
        renumber = keep.long().cumsum(0) - 1
        rows, essences = keep[self.owner], keep[self.essence_owner]
        spots = rows[self.row]
        new_row = rows.long().cumsum(0) - 1
        return replace(
            self,
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

    def losses(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The objective of every fact, and the part of it that is the target's, nats, both (facts,).

        residual   (facts, d_out); the objective is differentiable in it
        """
        logits = self._predictions(residual)
        each = cross_entropy(logits, self.token, reduction="none") * self.share
        nll = torch.zeros(self.facts, device=each.device).index_add(0, self.owner[self.row], each)
        loss = nll
        if self.essences is not None and self.settings.kl_weight and len(self.essence_owner):
            moved = finish(self.model, self.essences, residual[self.essence_owner])[:, 0]
            now = log_softmax(self.model.logits(moved), -1)
            drift = kl_div(self.essence_base, now, reduction="none", log_target=True).sum(-1)
            loss = loss.index_add(0, self.essence_owner, self.settings.kl_weight * drift)
        size: Tensor = residual.norm(dim=-1) / self.scale**2
        return loss + self.settings.norm_weight * size, nll

    @torch.no_grad()
    def said(self, residual: Tensor, limit: float) -> Tensor:
        """Which facts (facts,) bool greedy decoding says behind all their rows, with a mean loss of at
        most `limit` nats a token."""
        logp = log_softmax(self._predictions(residual), -1)
        owner = self.owner[self.row]
        each = -logp.gather(1, self.token[:, None])[:, 0] * self.share
        loss = torch.zeros(self.facts, device=each.device).index_add(0, owner, each)
        misses = torch.zeros(self.facts, device=each.device)
        misses = misses.index_add(0, owner, (logp.argmax(-1) != self.token).float())
        return (misses == 0) & (loss <= limit)

    def _predictions(self, residual: Tensor) -> Tensor:
        """Logits (predictions, vocabulary) of the target tokens' positions."""
        hidden = finish(self.model, self.prompts, residual[self.owner])
        return self.model.logits(hidden[self.row, self.column])


@torch.no_grad()
def _unedited(model: LanguageModel, essences: Prefilled | None) -> Tensor:
    """Log-probabilities (essences, vocabulary) of the base after each essence."""
    if essences is None:
        return torch.empty(0, model.network.config.get_text_config().vocab_size, device=model.device)
    return log_softmax(model.logits(essences.final[:, 0]), -1)
