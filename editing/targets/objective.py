"""MEMIT's objective (Meng et al. 2022, eq. 16 and the released code) for a whole batch of facts at once.

Only the suffix columns of the layers above the edited one are run, and only the positions that predict a
target token see the vocabulary. `editing/targets/reference.py` holds the plain form; a property test holds
them equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.scale import Room, room_of, scale_of
from corrigenda.models.encoding import TokenRow
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.plain_rows import PlainRows
from corrigenda.models.prefill import prefill
from corrigenda.models.prefix_cache import WIDTH_STEP, Openings
from corrigenda.models.upper import Prefilled, finish
from corrigenda.settings import TargetSettings


@dataclass(frozen=True, slots=True)
class FactRows:
    """What a group of requests is optimised on, as token rows.

    behind    per context, one row for each request; the plain prompts come first
    essence   a prompt whose next-token distribution must not move, cut at the lookup
    """

    behind: tuple[tuple[TokenRow, ...], ...]
    essence: TokenRow | None

    @property
    def rows(self) -> tuple[TokenRow, ...]:
        return tuple(row for rows in self.behind for row in rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Columns of prefix, opening aside, and of suffix: facts of one shape may share a batch.

        Both are the fact's own affair, so that its arithmetic does not depend on its company. The width is
        padded before the lookup, where columns are read once; suffixes are read again and again.
        """
        prefix = max(r.lookup - r.opening for r in (*self.rows, *([self.essence] if self.essence else [])))
        suffix = max(len(row.tokens) - row.lookup for row in self.rows)
        return _up(prefix + suffix, WIDTH_STEP) - suffix, suffix

    def first(self, contexts: int) -> FactRows:
        """The same behind the first few contexts only."""
        return replace(self, behind=self.behind[:contexts])


@dataclass(slots=True)
class Batch:
    """Facts that are optimised together, as two stacks of rows: prompts and essences.

    owner, essence_owner   (rows,)  the fact of each row
    plain                  (rows,)  bool: the row stands behind the fact's first context
    row, column, token     (predictions,)  which hidden state predicts which target token
    share                  (predictions,)  weight of a prediction in its fact's mean
    contexts               (facts,)  how many contexts the fact's rows stand behind
    essence_base           (essences, vocabulary)  log-probabilities of the base
    projected              (facts, d_out)  the lowest projection's output at the lookup of the first row
    scale                  (facts,)  what residuals are measured by there, see `room.scale_of`
    stretch                (width * d_out,)  from values to residuals, see `Band.stretch`
    """

    model: LanguageModel
    band: Band
    settings: TargetSettings
    facts: int
    prompts: Prefilled | PlainRows
    essences: Prefilled | PlainRows | None
    owner: Tensor
    essence_owner: Tensor
    plain: Tensor
    row: Tensor
    column: Tensor
    token: Tensor
    share: Tensor
    contexts: Tensor
    essence_base: Tensor
    projected: Tensor
    scale: Tensor
    stretch: Tensor

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        band: Band,
        facts: Sequence[FactRows],
        openings: Openings | None,
        settings: TargetSettings,
    ) -> Batch:
        """The facts, which have one shape; `openings` are those of their rows."""
        device, layer = model.device, band.lowest
        prefix, suffix = facts[0].shape
        rows = [row for fact in facts for row in fact.rows]
        owner = [i for i, fact in enumerate(facts) for _ in fact.rows]
        plain = [i == 0 for fact in facts for i, behind in enumerate(fact.behind) for _ in behind]
        prompts = prefill(model, layer, rows, openings, prefix=prefix, suffix=suffix)
        essences = [(i, fact.essence) for i, fact in enumerate(facts) if fact.essence is not None]
        stacked = prefill(model, layer, [row for _, row in essences], prefix=prefix) if essences else None
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
            band=band,
            settings=settings,
            facts=len(facts),
            prompts=prompts,
            essences=stacked,
            owner=column(owner),
            essence_owner=column([i for i, _ in essences]),
            plain=torch.tensor(plain, device=device),
            row=column([s[0] for s in spots]),
            column=column([s[1] for s in spots]),
            token=column([s[2] for s in spots]),
            share=torch.tensor([s[3] for s in spots], device=device),
            contexts=column([len(fact.behind) for fact in facts]),
            essence_base=_unedited(model, stacked),
            projected=prompts.projected[first],
            scale=scale_of(model, layer, prompts.projected[first], prompts.hidden[first, 0]),
            stretch=band.stretch(prompts.projected.shape[-1]).to(device),
        )

    def select(self, keep: Tensor) -> Batch:
        """The batch without the facts that have left; `keep` (facts,) bool."""
        renumber = keep.long().cumsum(0) - 1
        essences = keep[self.essence_owner]
        left = self._rows(keep[self.owner])
        return replace(
            left,
            facts=int(keep.sum()),
            essences=self.essences.select(essences.nonzero()[:, 0]) if self.essences is not None else None,
            owner=renumber[left.owner],
            essence_owner=renumber[self.essence_owner[essences]],
            contexts=self.contexts[keep],
            essence_base=self.essence_base[essences],
            projected=self.projected[keep],
            scale=self.scale[keep],
        )

    def plain_prompts(self) -> Batch:
        """The same facts behind their first context alone, and without their essences."""
        return replace(
            (first := self._rows(self.plain)),
            essences=None,
            essence_owner=self.essence_owner[:0],
            essence_base=self.essence_base[:0],
            share=first.share * self.contexts[first.owner[first.row]],
            contexts=torch.ones_like(self.contexts),
        )

    def _rows(self, keep: Tensor) -> Batch:
        """The same facts with fewer rows; `keep` (rows,) bool."""
        spots = keep[self.row]
        new_row = keep.long().cumsum(0) - 1
        return replace(
            self,
            prompts=self.prompts.select(keep.nonzero()[:, 0]),
            owner=self.owner[keep],
            plain=self.plain[keep],
            row=new_row[self.row[spots]],
            column=self.column[spots],
            token=self.token[spots],
            share=self.share[spots],
        )

    def room(self, norm_cap: float | Tensor) -> Room:
        """Where the facts' residuals may lie; one cap for all, or (facts,)."""
        return room_of(self.model, self.projected, self.scale, norm_cap)

    def start(self) -> Tensor:
        """The value (facts, width * d_out) float32 of a descent that has not begun."""
        return torch.zeros(self.facts, len(self.stretch), device=self.stretch.device)

    def residuals(self, value: Tensor) -> Tensor:
        """What the projections' outputs gain, (facts, width * d_out). A single layer's value is its residual:
        gradients that meet at one tensor are summed in one order, to the last bit."""
        return value if self.band.width == 1 else value * self.stretch

    def losses(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The objective of every fact, and the part of it that is the target's, nats, both (facts,).

        value   (facts, width * d_out) residuals over their layers' scales; it may ask for gradients
        """
        residual = self.residuals(value)
        asked = self._predicting(residual)
        essences = self.essences if self.settings.kl_weight and len(self.essence_owner) else None
        if essences is not None:
            moved = self._finish(essences, residual[self.essence_owner])[:, 0]
            asked = torch.cat((asked, moved))
        # The output embedding is the widest matrix of a small model: it is read once for both.
        logits = self.model.logits(asked)
        each = cross_entropy(logits[: len(self.token)], self.token, reduction="none") * self.share
        nll = torch.zeros(self.facts, device=each.device).index_add(0, self.owner[self.row], each)
        loss = nll
        if essences is not None:
            now = log_softmax(logits[len(self.token) :], -1)
            drift = kl_div(self.essence_base, now, reduction="none", log_target=True).sum(-1)
            loss = loss.index_add(0, self.essence_owner, self.settings.kl_weight * drift)
        size: Tensor = value.norm(dim=-1) / self.scale**2
        return loss + self.settings.norm_weight * size, nll

    @torch.no_grad()
    def said(self, value: Tensor, limit: float) -> Tensor:
        """Which facts (facts,) bool greedy decoding says behind all their rows, with a mean loss of at
        most `limit` nats a token."""
        logp = log_softmax(self.model.logits(self._predicting(self.residuals(value))), -1)
        owner = self.owner[self.row]
        each = -logp.gather(1, self.token[:, None])[:, 0] * self.share
        loss = torch.zeros(self.facts, device=each.device).index_add(0, owner, each)
        misses = torch.zeros(self.facts, device=each.device)
        misses = misses.index_add(0, owner, (logp.argmax(-1) != self.token).float())
        return (misses == 0) & (loss <= limit)

    def _predicting(self, residual: Tensor) -> Tensor:
        """Hidden states (predictions, d) that the target tokens are predicted from."""
        return self._finish(self.prompts, residual[self.owner])[self.row, self.column]

    def _finish(self, rows: Prefilled | PlainRows, residual: Tensor) -> Tensor:
        return finish(self.model, rows, residual, self.band.higher)


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


@torch.no_grad()
def _unedited(model: LanguageModel, essences: Prefilled | PlainRows | None) -> Tensor:
    """Log-probabilities (essences, vocabulary) of the base after each essence."""
    if essences is None:
        return torch.empty(0, model.network.config.get_text_config().vocab_size, device=model.device)
    still = torch.zeros_like(essences.projected)
    return log_softmax(model.logits(finish(model, essences, still)[:, 0]), -1)
