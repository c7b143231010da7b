"""What the golden-layer study asks of a model after an edit, and how right the answers are.

Facts and their questions are in `layer_facts`; all are marked in a few forwards of rows of equal length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.layer_facts import Question, StudyFact
from corrigenda.models.batch_invariant import products_in
from corrigenda.models.encoding import continuation_tokens, prompt_tokens
from corrigenda.models.hooks import hooked
from corrigenda.models.language_model import LanguageModel
from corrigenda.settings import Products

BATCH_TOKENS = 1024


class Exam:
    """All questions of a set of facts as token rows; equal rows of one fact are read once."""

    def __init__(self, model: LanguageModel, facts: Sequence[StudyFact], products: Products = "auto") -> None:
        self.model, self.facts, self.products = model, facts, products
        rows: dict[tuple[int, tuple[int, ...]], int] = {}
        # Fact, question, side, row, expected tokens.
        self.sides: list[tuple[int, int, int, int, tuple[int, ...]]] = []
        for i, fact in enumerate(facts):
            for j, question in enumerate(fact.questions):
                for side, answer in enumerate(self._answers(question)):
                    assert question is not None
                    (prompt,) = prompt_tokens(model.tokenizer, [question.prompt])
                    (tokens,) = continuation_tokens(model.tokenizer, [question.prompt], [answer])
                    row = rows.setdefault((i, (*prompt, *tokens[:-1])), len(rows))
                    self.sides.append((i, j, side, row, question.likeliest or tokens))
        self.rows = list(rows)

    @staticmethod
    def _answers(question: Question | None) -> list[str]:
        return [] if question is None else [a for a in (question.wanted, question.rival) if a is not None]

    def mark(self, layer: int, alone: tuple[Tensor, Tensor] | None = None) -> NDArray[np.float64]:
        """How right each question is answered, (facts, 5), 0 … 1; NaN where there is no question.

        alone   keys (facts, d_in) and residuals (facts, d_out): each fact's rows see its own rank-one
                edit of `layer`, r u^T, and no other
        """
        logp, share = np.full((2, len(self.facts), 5, 2), np.nan)
        # For this very weight: the mode keeps the halves of all weights that it has seen.
        products = products_in(self.products, self.model.device)
        by_row: dict[int, list[tuple[int, int, int, tuple[int, ...]]]] = {}
        for i, j, side, row, tokens in self.sides:
            by_row.setdefault(row, []).append((i, j, side, tokens))
        order = sorted(by_row, key=lambda row: len(self.rows[row][1]))
        while order:
            width = len(self.rows[order[0]][1])
            same = [row for row in order if len(self.rows[row][1]) == width][: max(1, BATCH_TOKENS // width)]
            order = [row for row in order if row not in set(same)]
            with products:
                self._read(same, by_row, layer, alone, logp, share)
        right = np.where(np.isnan(logp[..., 1]), share[..., 0], logp[..., 0] > logp[..., 1])
        return np.where(np.isnan(logp[..., 0]), np.nan, right)

    def _read(
        self,
        rows: Sequence[int],
        asked: dict[int, list[tuple[int, int, int, tuple[int, ...]]]],
        layer: int,
        alone: tuple[Tensor, Tensor] | None,
        logp: NDArray[np.float64],
        share: NDArray[np.float64],
    ) -> None:
        """One forward pass of rows of equal length."""
        ids = torch.tensor([self.rows[row][1] for row in rows], device=self.model.device)
        owner = [self.rows[row][0] for row in rows]
        with torch.inference_mode(), hooked([self.model.projection(layer)], _own_edits(owner, alone)):
            hidden = self.model.body(input_ids=ids).last_hidden_state
        spots = [
            (n, ids.shape[1] - len(tokens) + k, i, j, side, token, len(tokens))
            for n, row in enumerate(rows)
            for i, j, side, tokens in asked[row]
            for k, token in enumerate(tokens)
        ]
        with torch.inference_mode():
            logits = self.model.logits(hidden[[s[0] for s in spots], [s[1] for s in spots]])
            nats = logits.log_softmax(-1)[range(len(spots)), [s[5] for s in spots]].tolist()
            top = logits.argmax(-1).tolist()
        for (_, _, i, j, side, token, count), value, best in zip(spots, nats, top, strict=True):
            before = logp[i, j, side]
            logp[i, j, side] = value / count + (0.0 if np.isnan(before) else before)
            held = share[i, j, side]
            share[i, j, side] = (best == token) / count + (0.0 if np.isnan(held) else held)


def _own_edits(owner: Sequence[int], alone: tuple[Tensor, Tensor] | None) -> Callable[..., Any]:
    def hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if alone is None:
            return None
        directions, residuals = (part[list(owner)].to(output) for part in alone)
        return output + (inputs[0] @ directions[..., None]) * residuals[:, None]

    return hook
