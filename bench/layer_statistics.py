"""What the golden-layer study's outcomes say: golden layers, oracles, nulls, regrets, intervals.

Pure functions of arrays. M (facts, layers) is the outcome of a fact when edited at a layer, 0 … 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
RESAMPLES = 2_000
SHUFFLES = 500


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % bootstrap interval over facts."""

    value: float
    low: float
    high: float

    def points(self) -> str:
        """In percentage points."""
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def overall(outcome: Floats, columns: tuple[tuple[int, ...], ...]) -> Floats:
    """Mean over kinds of the mean over a kind's prompts; (…, 5) to (…); kinds never asked do not count."""
    kinds = []
    for kind in columns:
        part = outcome[..., list(kind)]
        asked = ~np.isnan(part)
        counts = asked.sum(-1)
        total = np.where(asked, part, 0.0).sum(-1)
        kinds.append(np.divide(total, counts, out=np.full(total.shape, np.nan), where=counts > 0))
    mean: Floats = np.nanmean(np.stack(kinds, -1), -1)
    return mean


ALL = ((0,), (1, 2), (3, 4))
# The cross-fitted oracle chooses on one half of the held-out prompts and is judged on the other.
HALF_A = ((1,), (3,))
HALF_B = ((2,), (4,))


def golden(m: Floats) -> int:
    """The layer that is best on average; m (facts, layers)."""
    return int(m.mean(0).argmax())


def naive_oracle(m: Floats) -> float:
    """Mean of each fact's own best layer: inflated, a maximum over noise."""
    return float(m.max(1).mean())


def cross_fitted_gap(a: Floats, b: Floats, seed: int = 0) -> Interval:
    """What choosing a layer per fact gains over one golden layer, choice and judgement on disjoint prompts.

    a, b   (facts, layers), outcomes on the two halves; both roles are played and averaged. Ties go to the
           layer that is better on average.
    """

    def gain(rows: NDArray[np.intp]) -> float:
        return float(np.mean([_gain(a[rows], b[rows]), _gain(b[rows], a[rows])]))

    return bootstrap(gain, len(a), seed)


def _gain(choose: Floats, judge: Floats) -> float:
    means = choose.mean(0)
    best = (choose + 1e-6 * means).argmax(1)
    return float(judge[np.arange(len(judge)), best].mean() - judge[:, means.argmax()].mean())


def layer_null(m: Floats, seed: int = 0) -> tuple[float, float, float]:
    """Is any layer golden? Best column mean, its 95th percentile when every fact's layers are shuffled, p."""
    rng = np.random.default_rng(seed)
    seen = m.mean(0).max()
    null = np.array([rng.permuted(m, axis=1).mean(0).max() for _ in range(SHUFFLES)])
    return float(seen), float(np.quantile(null, 0.95)), float((1 + (null >= seen).sum()) / (1 + SHUFFLES))


def regret(m: Floats, pick: int | None, seed: int = 0) -> Interval:
    """What the best layer on these facts has over `pick`; None means a random layer, the mean over all."""
    best = golden(m)
    theirs = m.mean(1) if pick is None else m[:, pick]
    lost = m[:, best] - theirs
    return bootstrap(lambda rows: float(lost[rows].mean()), len(m), seed)


def bootstrap(statistic: object, n: int, seed: int) -> Interval:
    """The percentile bootstrap over `n` facts of a function of their indices."""
    assert callable(statistic)
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES)])
    low, high = np.quantile(values, (0.025, 0.975))
    return Interval(float(statistic(np.arange(n))), float(low), float(high))
