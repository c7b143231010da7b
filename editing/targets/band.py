"""The golden band: the layers around the golden one that carry an edit together.

The harm of an edit grows with the square of each residual, so that the same effect, shared by several layers,
costs a fraction of it. Residuals of all layers are found in one descent; what a residual costs differs from
layer to layer, and `scales` says how much (`docs/design/0007-golden-band.md`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Of a band's layers, so many in a hundred lie below the golden one: what a subject is told early, all later
# layers can read.
BELOW = 70


@dataclass(frozen=True, slots=True)
class Band:
    """Layers that are edited together, the lowest first.

    scales   by layer: how long a residual is there for the same harm; a single layer's is 1
    """

    layers: tuple[int, ...]
    scales: tuple[float, ...]

    @classmethod
    def single(cls, layer: int) -> Band:
        return cls((layer,), (1.0,))

    @property
    def lowest(self) -> int:
        return self.layers[0]

    @property
    def higher(self) -> tuple[int, ...]:
        return self.layers[1:]

    @property
    def width(self) -> int:
        return len(self.layers)

    def stretch(self, d_out: int) -> Tensor:
        """(width * d_out,) float32: what turns a value of the descent into residuals, layer by layer."""
        return torch.tensor(self.scales, dtype=torch.float32).repeat_interleave(d_out)


def layers_around(golden: int, width: int, n_layers: int) -> tuple[int, ...]:
    """`width` layers around the golden one, fewer in a shallow model; neither the first nor the last two.

    The first layer puts tokens together, and what the last ones say is too late to be read.
    """
    lowest, highest = min(1, golden), max(n_layers - 3, golden)
    width = min(width, highest - lowest + 1)
    first = golden - (width * BELOW) // 100
    first = max(lowest, min(first, highest - width + 1))
    return tuple(range(first, first + width))
