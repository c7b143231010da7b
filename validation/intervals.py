"""95 % intervals of figures that add up from clusters: how sure so many probes can make one.

Probes of one correction stand or fall together, so a figure knows less than the number of its probes says.
Shares have Wilson's interval (Wilson 1927) with the effective number of probes (Kish 1965: the ratio of the
clustered to the simple variance); means, differences and ratios are resampled over clusters (Efron 1979).
Knows numbers; nothing of probes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Z = 1.959963984540054  # of a standard normal: 95 % lie within
_RESAMPLES = 2_000
AT_ONCE = 2**22  # numbers drawn together
Shares = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """The ends of a 95 % interval, in the figure's own unit."""

    low: float
    high: float


def of_share(parts: Shares, wholes: Shares) -> Interval:
    """The interval of sum(parts) / sum(wholes), where 0 <= part <= whole in every cluster."""
    asked = float(wholes.sum())
    share = float(parts.sum()) / asked
    spread = float(((parts - share * wholes) ** 2).sum()) / asked**2
    # All alike: the clusters are what was seen, however many probes each has.
    effective = min(asked, share * (1 - share) / spread) if spread > 1e-15 else float(len(wholes))
    return wilson(share, effective)


def wilson(share: float, count: float) -> Interval:
    """Wilson's interval of a share of `count` independent trials."""
    middle = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z / (1 + Z * Z / count) * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def of_mean(parts: Shares, wholes: Shares) -> Interval | None:
    """The interval of sum(parts) / sum(wholes), by resampling clusters; None where there is but one, or where
    a part is not a finite number.

    The draw is the same for the same number of clusters: equal rows have equal intervals.
    """
    count = len(parts)
    if count < 2 or not np.isfinite(parts).all():
        return None
    random = np.random.default_rng(count)
    step = max(1, AT_ONCE // count)
    found = []
    for first in range(0, _RESAMPLES, step):
        drawn = random.integers(0, count, (min(step, _RESAMPLES - first), count))
        found.append(parts[drawn].sum(1) / wholes[drawn].sum(1))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return Interval(float(low), float(high))


def intervals_of(clusters: Iterable[dict[str, Any]]) -> dict[str, Interval]:
    """Intervals by figure, from the rows of queries/clusters.sql."""
    parts: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in clusters:
        parts.setdefault((row["kind"], row["figure"]), []).append((row["part"], row["whole"]))
    found: dict[str, Interval] = {}
    for (kind, figure), pairs in parts.items():
        part, whole = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
        interval = of_share(part, whole) if kind == "share" else of_mean(part, whole)
        if interval is not None:
            rise = figure == "perplexity_rise"
            found[figure] = Interval(*map(math.expm1, interval)) if rise else interval
    return found
