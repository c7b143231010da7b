"""The golden-layer study's measurements: every fact edited at one layer, alone and with all others.

A target (key and residual) depends on the base and the layer alone, so one optimisation per fact and layer
serves both kinds of edit. Facts are in `layer_facts`, statistics in `layer_statistics`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.layer_facts import Question, StudyFact
from corrigenda.config import Editing
from corrigenda.editing.engine import Targets, find_targets, solve_targets
from corrigenda.editing.solve import solve_update
from corrigenda.editing.taps import hooked
from corrigenda.editing.targets import Target
from corrigenda.facts import EditRequest
from corrigenda.models.loading import LanguageModel
from corrigenda.models.prompts import target_tokens
from corrigenda.models.steady import products_in

BATCH_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """How facts are edited in the study; part of the name of its results."""

    facts: int
    steps: int
    norm_cap: float
    weight: float
    seed: int
    background_tokens: int

    @property
    def editing(self) -> Editing:
        return Editing(warm_steps=0, steps=self.steps, contexts=0)


@dataclass(frozen=True, slots=True)
class Background:
    """What edits of one layer must leave alone: covariance (d_in, d_in) and metric (d_out, d_out); and the
    contexts that keys are read behind."""

    covariance: Tensor
    metric: Tensor | None = None
    contexts: tuple[str, ...] = ("",)


class Exam:
    """All questions of a set of facts as token rows; equal rows of one fact are read once."""

    def __init__(self, model: LanguageModel, facts: Sequence[StudyFact]) -> None:
        self.model, self.facts = model, facts
        rows: dict[tuple[int, tuple[int, ...]], int] = {}
        self.sides: list[
            tuple[int, int, int, int, tuple[int, ...]]
        ] = []  # fact, question, side, row, expected
        for i, fact in enumerate(facts):
            for j, question in enumerate(fact.questions):
                for side, answer in enumerate(self._answers(question)):
                    assert question is not None
                    prompt = model.tokenizer(question.prompt.rstrip())["input_ids"]
                    tokens = target_tokens(model.tokenizer, answer)
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
        products = products_in("auto", self.model.device)  # for this very weight: halves are kept by the mode
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


@dataclass(frozen=True, slots=True)
class LayerResult:
    """One layer's outcomes; (facts, 5) each, in the order of PROMPTS; NaN where nothing was asked.

    seconds   targets, solve, single (marking single edits), batch (marking the batch)
    """

    layer: int
    single: NDArray[np.float64]
    batch: NDArray[np.float64]
    seconds: dict[str, float]

    def write(self, path: Path) -> None:
        row = asdict(self) | {"single": self.single.tolist(), "batch": self.batch.tolist()}
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".part")
        scratch.write_text(json.dumps(row), encoding="utf-8")
        scratch.rename(path)

    @classmethod
    def read(cls, path: Path) -> LayerResult:
        row = json.loads(path.read_text(encoding="utf-8"))
        return cls(row["layer"], np.array(row["single"]), np.array(row["batch"]), row["seconds"])


def sweep_layer(
    model: LanguageModel, exam: Exam, layer: int, background: Background, strength: Strength
) -> LayerResult:
    """Edit every fact of the exam at `layer`, alone and all together, and mark both."""
    requests = [fact.request for fact in exam.facts]
    clock = [perf_counter()]
    found = _targets(model, layer, requests, background, strength)
    clock.append(perf_counter())
    covariance = background.covariance
    update = solve_targets(found.known, covariance, strength.editing, weight=strength.weight)
    targets = [found.known.get(request.digest) for request in requests]
    alone = single_updates(targets, covariance, strength.weight, model.weight(layer))
    clock.append(perf_counter())
    single = exam.mark(layer, alone)
    clock.append(perf_counter())
    with model.trial(layer, update):
        batch = exam.mark(layer)
    clock.append(perf_counter())
    parts = ("targets", "solve", "single", "batch")
    spent = dict(zip(parts, np.diff(clock).tolist(), strict=True))
    return LayerResult(layer, single, batch, spent)


def _targets(
    model: LanguageModel,
    layer: int,
    requests: Sequence[EditRequest],
    background: Background,
    strength: Strength,
) -> Targets:
    return find_targets(
        model,
        layer,
        requests,
        background.contexts,
        strength.editing,
        norm_cap=strength.norm_cap,
        cached={},
        metric=background.metric,
    )


def single_updates(
    targets: Sequence[Target | None], covariance: Tensor, weight: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Directions u (facts, d_in) and residuals (facts, d_out) of MEMIT's edit of each fact alone.

    u = (w C)^-1 k / (1 + k^T (w C)^-1 k); a fact without a target gets zeros.
    """
    width = len(covariance)
    keys = [target.keys.double().mean(0) if target else torch.zeros(width).double() for target in targets]
    outputs = next(len(target.residual) for target in targets if target)
    residuals = [target.residual.double() if target else torch.zeros(outputs).double() for target in targets]
    k = torch.stack(keys, 1)
    back = torch.cholesky_solve(k, torch.linalg.cholesky(weight * covariance))
    directions = back / (1 + (k * back).sum(0))
    return directions.T.to(like.device), torch.stack(residuals).to(like.device)


def plain_single_edit(
    model: LanguageModel, fact: StudyFact, layer: int, background: Background, strength: Strength
) -> float:
    """Seconds of one edit the plain way: one fact, its own solve, its own marking."""
    exam = Exam(model, [fact])
    started = perf_counter()
    found = _targets(model, layer, [fact.request], background, strength)
    for target in found.known.values():
        update = solve_update(
            target.keys.double().mean(0)[:, None],
            target.residual[:, None],
            background.covariance,
            strength.weight,
        )
        with model.trial(layer, update):
            exam.mark(layer)
    return perf_counter() - started
