"""The golden-layer study's measurements: every fact edited at one layer, alone and with all others.

A target (key and residual) depends on the base and the layer alone, so one optimisation per fact and layer
serves both kinds of edit. Edits are what a night does, with its own settings. Questions are in `layer_exam`,
statistics in `layer_statistics`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.layer_exam import Exam
from bench.layer_facts import StudyFact
from bench.quality import perplexity
from corrigenda.editing import versions
from corrigenda.editing.solve.joint import solve_balanced
from corrigenda.editing.solve.weight import OtherText
from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.engine import Targets, find_targets
from corrigenda.editing.targets.target import Target
from corrigenda.facts import EditRequest, digest_of
from corrigenda.models.language_model import LanguageModel
from corrigenda.settings import Editing, NormalisedDescent, TargetSettings

# A night's settings, but that all layers' metrics are measured at once, from the first tokens alone.
METRIC = NormalisedDescent(metric_tokens=4_096)
EDITING = Editing(targets=TargetSettings(descent=METRIC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Strength:
    """How much is edited, and from what background; part of the name of the study's results."""

    facts: int
    seed: int
    background_tokens: int

    @property
    def digest(self) -> str:
        return digest_of([asdict(self), EDITING.model_dump(), versions.TARGETS])


@dataclass(frozen=True, slots=True)
class Background:
    """What edits of one layer must leave alone, and what they are practised and judged on.

    covariance   (d_in, d_in)
    metric       (d_out, d_out)
    norm_cap     of residuals, as a share of the hidden norm
    contexts     texts before the prompts, the empty one first
    held_out     (rows, length) tokens that the perplexity is read on
    """

    covariance: Tensor
    metric: Tensor | None
    norm_cap: float
    contexts: tuple[str, ...]
    held_out: Tensor


@dataclass(frozen=True, slots=True)
class LayerResult:
    """One layer's outcomes.

    single       (facts, 5) in the order of PROMPTS, each fact edited alone; NaN where nothing was asked
    batch        … all edited together
    perplexity   of held-out text after the batch
    weight       background keys per fact, as the batch's solve chose it
    seconds      targets, solve, single (marking single edits), batch (marking the batch)
    """

    layer: int
    single: NDArray[np.float64]
    batch: NDArray[np.float64]
    perplexity: float
    weight: float
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
        return cls(**row | {"single": np.array(row["single"]), "batch": np.array(row["batch"])})


def sweep_layer(model: LanguageModel, exam: Exam, layer: int, background: Background) -> LayerResult:
    """Edit every fact of the exam at `layer`, alone and all together, and mark both."""
    requests = [fact.request for fact in exam.facts]
    clock = [perf_counter()]
    found = _targets(model, layer, requests, background)
    clock.append(perf_counter())
    other = OtherText.of(model.linear_map(layer), background.covariance)
    solved = solve_balanced(found.known, [other], EDITING)
    targets = [found.known.get(request.digest) for request in requests]
    alone = single_updates(targets, background.covariance, solved.weight, model.weight(layer))
    clock.append(perf_counter())
    single = exam.mark(layer, alone)
    clock.append(perf_counter())
    with model.trial({layer: solved.updates[0]}):
        batch = exam.mark(layer)
        clock.append(perf_counter())
        text = perplexity(model, background.held_out)
    parts = ("targets", "solve", "single", "batch")
    spent = dict(zip(parts, np.diff(clock).tolist(), strict=True))
    return LayerResult(layer, single, batch, text, solved.weight, spent)


def _targets(
    model: LanguageModel, layer: int, requests: Sequence[EditRequest], background: Background
) -> Targets:
    return find_targets(
        model,
        Band.single(layer),
        requests,
        background.contexts,
        EDITING.targets,
        norm_cap=background.norm_cap,
        cached={},
        metric=None if background.metric is None else background.metric[None],
    )


def single_updates(
    targets: Sequence[Target | None], covariance: Tensor, weight: float, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Directions u (facts, d_in) and residuals (facts, d_out) of MEMIT's edit of each fact alone.

    u = (w C)^-1 k / (1 + k^T (w C)^-1 k); a fact without a target gets zeros.
    """
    width = len(covariance)
    keys = [target.keys[0].double().mean(0) if target else torch.zeros(width).double() for target in targets]
    outputs = next(target.residual.shape[1] for target in targets if target)
    residuals = [
        target.residual[0].double() if target else torch.zeros(outputs).double() for target in targets
    ]
    k = torch.stack(keys, 1)
    back = torch.cholesky_solve(k, torch.linalg.cholesky(weight * covariance))
    directions = back / (1 + (k * back).sum(0))
    return directions.T.to(like.device), torch.stack(residuals).to(like.device)


def plain_single_edit(model: LanguageModel, fact: StudyFact, layer: int, background: Background) -> float:
    """Seconds of one edit the plain way: one fact, its own solve, its own marking."""
    exam = Exam(model, [fact])
    started = perf_counter()
    found = _targets(model, layer, [fact.request], background)
    other = OtherText.of(model.linear_map(layer), background.covariance)
    (update,) = solve_balanced(found.known, [other], EDITING).updates
    with model.trial({layer: update}):
        exam.mark(layer)
    return perf_counter() - started
