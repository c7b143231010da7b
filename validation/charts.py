"""Where the marks of a chart lie: numbers in, coordinates out. A template draws them as SVG.

Coordinates are in the units of a view box `WIDTH` wide and `HEIGHT` high, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 720, 200
_MARGIN = 18  # below the plot, for the labels of the axis


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle, its class for the style sheet, and what is said of it."""

    x: float
    y: float
    width: float
    height: float
    role: str
    label: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point of a line, or a label of an axis."""

    x: float
    y: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """All that a template needs to draw one figure."""

    title: str
    bars: tuple[Bar, ...] = ()
    points: tuple[Dot, ...] = ()
    ticks: tuple[Dot, ...] = ()
    baseline: float = HEIGHT - _MARGIN
    top: str = ""  # the value at the upper edge

    @property
    def path(self) -> str:
        """The points joined, as an SVG polyline has them."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


def layer_chart(scores: Sequence[float], kept: Sequence[bool], pick: int) -> Chart:
    """One bar per layer; larger is better, the pick stands out, what was filtered is faint."""
    low, high = _range([0.0, *scores])
    step = WIDTH / max(1, len(scores))
    zero = _y(0.0, low, high)
    bars = []
    for layer, (score, stays) in enumerate(zip(scores, kept, strict=True)):
        top = _y(score if math.isfinite(score) else 0.0, low, high)
        role = "pick" if layer == pick else "kept" if stays else "dropped"
        label = f"layer {layer}: {score:.4g}" + {"pick": ", picked", "dropped": ", filtered"}.get(role, "")
        bars.append(
            Bar(layer * step + step * 0.1, min(top, zero), step * 0.8, max(abs(zero - top), 1), role, label)
        )
    every = max(1, math.ceil(len(scores) / 16))
    ticks = [Dot((layer + 0.5) * step, HEIGHT - 4, str(layer)) for layer in range(0, len(scores), every)]
    return Chart("Score of each layer", tuple(bars), ticks=tuple(ticks), baseline=zero, top=f"{high:.4g}")


def margin_chart(title: str, before: Mapping[int, int], after: Mapping[int, int]) -> Chart:
    """Two histograms side by side; keys are bins of half a nat, from -16 to 15."""
    highest = max([1, *before.values(), *after.values()])
    step = WIDTH / 32
    bars = []
    for place, (side, counts) in enumerate((("before", before), ("after", after))):
        for bin_, count in counts.items():
            top = _y(count, 0, highest)
            x = (bin_ + 16) * step + step * (0.08 + 0.42 * place)
            label = f"{side}: {count} at {bin_ / 2:g} to {bin_ / 2 + 0.5:g} nats"
            bars.append(Bar(x, top, step * 0.42, HEIGHT - _MARGIN - top, side, label))
    ticks = tuple(Dot((nats + 8) * 2 * step, HEIGHT - 4, str(nats)) for nats in range(-6, 7, 2))
    return Chart(title, tuple(bars), ticks=ticks, top=f"{highest} probes")


def line_chart(title: str, values: Sequence[tuple[int, float]]) -> Chart:
    """A line over releases, from zero; what is no number is left out."""
    known = [(release, value) for release, value in values if math.isfinite(value)]
    low, high = _range([0.0, *(value for _, value in known)])
    step = WIDTH / max(1, len(known))
    points = [
        Dot((place + 0.5) * step, _y(value, low, high), f"release {release}: {value:.4g}")
        for place, (release, value) in enumerate(known)
    ]
    every = max(1, math.ceil(len(known) / 16))
    ticks = [Dot(points[i].x, HEIGHT - 4, str(known[i][0])) for i in range(0, len(known), every)]
    zero = _y(0.0, low, high)
    return Chart(title, points=tuple(points), ticks=tuple(ticks), baseline=zero, top=f"{high:.4g}")


def _range(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    return (low, high) if high > low else (low, low + 1)


def _y(value: float, low: float, high: float) -> float:
    """From the value at the bottom of the plot to the one at its top."""
    return (HEIGHT - _MARGIN - 4) * (1 - (value - low) / (high - low)) + 4
