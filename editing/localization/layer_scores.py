"""One score per layer, and the layer they point to: the result of every localizer.

Knows statistics (fences, bootstrap) and JSON; nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corrigenda.errors import EditError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_RESAMPLES = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerScores:
    """What a localizer found.

    method, version  the localizer and the hand-bumped version of its algorithm
    pick             the golden layer, 0 = the first
    scores           one per layer; larger is better
    kept             False where a layer was dropped before the best was taken
    pick_share       share of bootstrap resamples of the facts that give the same pick, 0 … 1;
                     None where a method has no per-fact scores
    n_facts          proxy facts used
    norms            lga: mean over facts of |gradient of the old text|, per layer
    cosines          lga: mean over facts of cos(gradient old, gradient new), per layer
    trials           two-stage: layer -> outcome of its trial edit
    warnings         sentences for the user
    seconds          what it took when it was computed; not part of equality
    """

    method: str
    version: int
    pick: int
    scores: tuple[float, ...]
    kept: tuple[bool, ...]
    pick_share: float | None = None
    n_facts: int = 0
    norms: tuple[float, ...] | None = None
    cosines: tuple[float, ...] | None = None
    trials: Mapping[int, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict; `from_json` gives the same value back."""
        return asdict(self) | {"trials": {str(layer): value for layer, value in self.trials.items()}}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> LayerScores:
        known = {f.name for f in fields(cls)}
        row: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in raw.items()
            if name in known
        }
        row["trials"] = {int(layer): float(value) for layer, value in raw.get("trials", {}).items()}
        return cls(**row)


def within_fences(scores: Floats, kappa: float = 1.0) -> Bools:
    """Which scores lie inside Tukey's fences, the boundary included.

    scores   (…, layers)
    returns  (…, layers)   Q1 - kappa IQR <= score <= Q3 + kappa IQR, one pass, linear quartiles
    """
    low, high = np.quantile(scores, (0.25, 0.75), axis=-1, keepdims=True)
    reach = kappa * (high - low)
    kept: Bools = (low - reach <= scores) & (scores <= high + reach)
    return kept


def best(scores: Floats, kept: Bools) -> NDArray[np.intp]:
    """The first of the highest kept scores along the last axis."""
    picked: NDArray[np.intp] = np.where(kept, scores, -np.inf).argmax(-1)
    return picked


def pick_share(per_fact: Floats, pick: int, *, fences: bool, seed: int) -> float:
    """How often resampled facts lead to the same pick.

    per_fact   (layers, facts), a layer's score being the sum of its row
    """
    n = per_fact.shape[1]
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    scores = draws @ per_fact.T
    kept = within_fences(scores) if fences else np.ones_like(scores, bool)
    return float((best(scores, kept) == pick).mean())


def summarize(
    method: str,
    version: int,
    per_fact: Floats,
    *,
    fences: bool,
    seed: int,
    mean: bool = False,
    **extras: Any,
) -> LayerScores:
    """The result of a localizer that scores every layer on every fact.

    per_fact   (layers, facts); a layer's score is the sum over its facts, or the mean

    Raises EditError when a score is not finite.
    """
    scores = per_fact.mean(1) if mean else per_fact.sum(1)
    if not np.isfinite(scores).all():
        raise EditError(
            "a layer's score is not a finite number",
            remedy="Load the model in float32, or use another localization method",
            method=method,
            layers=np.flatnonzero(~np.isfinite(scores)).tolist(),
        )
    kept = within_fences(scores) if fences else np.ones_like(scores, bool)
    pick = int(best(scores, kept))
    return LayerScores(
        method=method,
        version=version,
        pick=pick,
        scores=tuple(scores.tolist()),
        kept=tuple(kept.tolist()),
        pick_share=pick_share(per_fact, pick, fences=fences, seed=seed),
        n_facts=per_fact.shape[1],
        **extras,
    )
