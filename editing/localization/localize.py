"""Localization: which one layer of a model should carry its corrections.

One entry point, `localize`; the methods differ in what they look at. `lga`, `lga-unfenced` and `edit-shaped`
cost a backward pass per proxy text; `two-stage` tries batch edits at the handful of layers that `lga` scores
highest; `causal-tracing`, `salem`, `middle` and `random` are baselines.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from corrigenda.editing.localization import baselines as baselines
from corrigenda.editing.localization import edit_shaped as shaped
from corrigenda.editing.localization import lga as gradients
from corrigenda.editing.localization.layer_scores import LayerScores
from corrigenda.editing.localization.proxy import greedy_answers
from corrigenda.errors import UsageError
from corrigenda.facts import ProxyFact
from corrigenda.models.language_model import LanguageModel
from corrigenda.settings import Localization

# Edits the proxy facts at a layer and says how good the outcome is; larger is better, 1 is perfect.
Trial = Callable[[int], float]

FEW_FACTS = 10


@dataclass(frozen=True, slots=True)
class Task:
    """What every method is given."""

    model: LanguageModel
    facts: Sequence[ProxyFact]
    settings: Localization
    trial: Trial | None


def localize(
    model: LanguageModel,
    facts: Sequence[ProxyFact],
    settings: Localization,
    *,
    trial: Trial | None = None,
) -> LayerScores:
    """Score every layer of `model` on the proxy facts and pick the golden one.

    trial   needed by `two-stage` alone: a truncated batch edit of the facts at a layer, and its outcome

    Raises UsageError for a method that is not known, or without facts; EditError when scores are not finite.
    """
    if settings.layer is not None:
        return by_hand(model.n_layers, settings.layer)
    if not facts:
        raise UsageError(
            "there are no proxy facts", remedy="Give localization some facts that the model knows"
        )
    started = perf_counter()
    found = method_of(settings.method)(Task(model, facts, settings, trial))
    few = (f"only {len(facts)} proxy facts: the pick is unsure",) if len(facts) < FEW_FACTS else ()
    return replace(found, warnings=found.warnings + few, seconds=perf_counter() - started)


def by_hand(n_layers: int, layer: int) -> LayerScores:
    """The result where the settings fix the layer. Raises UsageError when there is no such layer."""
    if layer >= n_layers:
        raise UsageError(
            "the model has no such layer",
            remedy=f"Set `layer` to 0 … {n_layers - 1}, or leave it out",
            layer=layer,
        )
    return _constant("by-hand", 1, n_layers, layer)


def method_of(name: str) -> Callable[[Task], LayerScores]:
    """The localizer of that name. Raises UsageError, which lists what there is."""
    if name not in METHODS:
        raise UsageError(
            "no such localization method", remedy=f"Use one of {', '.join(METHODS)}", method=name
        )
    return METHODS[name]


def _lga(task: Task) -> LayerScores:
    s = task.settings
    old = (
        [fact.target_true for fact in task.facts]
        if s.old == "dataset"
        else greedy_answers(task.model, task.facts)
    )
    return gradients.lga(
        task.model,
        task.facts,
        old,
        loss=s.loss,
        matrices=s.matrices,
        fences=s.method != "lga-unfenced",
        seed=s.seed,
    )


def _edit_shaped(task: Task) -> LayerScores:
    return shaped.edit_shaped(task.model, task.facts, seed=task.settings.seed)


def _causal_tracing(task: Task) -> LayerScores:
    return baselines.causal_tracing(task.model, task.facts, seed=task.settings.seed)


def _salem(task: Task) -> LayerScores:
    return baselines.salem(task.model, task.facts, seed=task.settings.seed)


def _middle(task: Task) -> LayerScores:
    return _constant("middle", 1, task.model.n_layers, task.model.n_layers // 2)


def _random(task: Task) -> LayerScores:
    layer = random.Random(task.settings.seed).randrange(task.model.n_layers)
    return _constant("random", 1, task.model.n_layers, layer)


def _constant(method: str, version: int, n_layers: int, layer: int) -> LayerScores:
    scores = tuple(float(i == layer) for i in range(n_layers))
    return LayerScores(
        method=method, version=version, pick=layer, scores=scores, kept=(True,) * n_layers, pick_share=1.0
    )


TWO_STAGE_VERSION = 4


def _two_stage(task: Task) -> LayerScores:
    if task.trial is None:
        raise UsageError(
            "two-stage localization needs trial edits",
            remedy="Pass `trial`, or use a method without it: lga or edit-shaped",
        )
    tried = sorted(shortlist(_lga(task), task.settings.trials))
    trials = {layer: task.trial(layer) for layer in tried}
    layers = range(task.model.n_layers)
    # Between two tried layers a straight line stands in: for pictures only, they are not picked.
    scores = np.interp(layers, tried, list(trials.values()))
    return LayerScores(
        method="two-stage",
        version=TWO_STAGE_VERSION,
        pick=max(tried, key=lambda layer: trials[layer]),
        scores=tuple(scores.tolist()),
        kept=tuple(layer in trials for layer in layers),
        n_facts=len(task.facts),
        trials=trials,
    )


def shortlist(found: LayerScores, count: int) -> list[int]:
    """The `count` layers of the highest scores, the pick first; what was dropped as an outlier is not among
    them.

    Trials of few facts cannot be asked of all layers: an early one may edit thirty facts as well as any
    other, and a hundred worse (docs/log).
    """
    kept = [layer for layer, within in enumerate(found.kept) if within]
    return sorted(kept, key=lambda layer: found.scores[layer], reverse=True)[:count]


METHODS: Mapping[str, Callable[[Task], LayerScores]] = {
    "lga": _lga,
    "lga-unfenced": _lga,
    "edit-shaped": _edit_shaped,
    "two-stage": _two_stage,
    "causal-tracing": _causal_tracing,
    "salem": _salem,
    "middle": _middle,
    "random": _random,
}
VERSIONS: Mapping[str, int] = {
    "lga": gradients.VERSION,
    "lga-unfenced": gradients.VERSION,
    "edit-shaped": shaped.VERSION,
    "two-stage": TWO_STAGE_VERSION,
    "causal-tracing": baselines.TRACING_VERSION,
    "salem": baselines.SALEM_VERSION,
    "middle": 1,
    "random": 1,
}
