"""A picture of layer scores for reports and pages, by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.errors import UsageError

if TYPE_CHECKING:
    from corrigenda.api.values import LayerScores

FORMATS = (".svg", ".png", ".pdf")
KEPT, DROPPED, GOLDEN = "#4878a8", "#c8c8c8", "#d8a018"


def check_format(path: Path | None) -> None:
    """Refuse a file name that no picture can have, before any work is done."""
    if path is not None and path.suffix.lower() not in FORMATS:
        raise UsageError(
            "a picture cannot have this file type", remedy=f"Use one of {', '.join(FORMATS)}", path=str(path)
        )


def draw(found: LayerScores, path: Path, *, title: str = "") -> None:
    """One bar per layer: the golden layer in gold, dropped ones in grey; trials as points."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    colours = [KEPT if kept else DROPPED for kept in found.kept]
    colours[found.pick] = GOLDEN
    axes.bar(range(len(found.scores)), found.scores, color=colours)
    _cut_off(axes, found)
    axes.set(xlabel="layer", ylabel=f"{found.method} score", title=f"{title}: layer {found.pick}".strip(": "))
    if found.trials:
        twin = axes.twinx()
        twin.plot(*zip(*sorted(found.trials.items()), strict=True), "o-", color="black", markersize=4)
        twin.set_ylabel("trial edit")
    # No date and a fixed salt: the same scores give the same bytes.
    with mpl.rc_context({"svg.hashsalt": "layers"}):
        dated = {"Date": None} if path.suffix.lower() == ".svg" else {}
        figure.savefig(path, metadata=dated)


def _cut_off(axes: Any, found: LayerScores) -> None:
    """Scale to the layers that were kept; what sticks out is cut and says its score."""
    inside = [score for score, kept in zip(found.scores, found.kept, strict=True) if kept]
    low, high = min([0.0, *inside]), max([0.0, *inside])
    if low == high or not any(score > 1.2 * high for score in found.scores):
        return
    top = high + 0.2 * (high - low)
    axes.set_ylim(low * 1.1, top)
    for layer, score in enumerate(found.scores):
        if score > top:
            axes.text(layer, top, f"{score:.3g}", rotation=90, ha="center", va="top", fontsize=7)
