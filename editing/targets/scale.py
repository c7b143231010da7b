"""How long a residual may be, and what its length is measured by.

Mostly the projection's output is added to the hidden state as it is, and a residual is as long as the change
that it makes. In some families (Gemma 2 and 3, OLMo 2) a norm stands between the two: the output may be a
thousand times shorter than the hidden state, and only its direction counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from corrigenda.models.language_model import LanguageModel

# The norm cap of a ball that few residuals reach.
FREE = 1.5


@dataclass(frozen=True, slots=True)
class Ball:
    """Residuals of bounded length. radius: (facts,)."""

    radius: Tensor

    def nearest(self, value: Tensor) -> Tensor:
        """Rows (facts, d_out) projected on the balls."""
        norms = value.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        kept: Tensor = value * (self.radius[:, None] / norms).clamp(max=1.0)
        return kept

    def select(self, keep: Tensor) -> Ball:
        """The rows that stay; `keep` (facts,) bool."""
        return Ball(self.radius[keep])


@dataclass(frozen=True, slots=True)
class Sphere:
    """Residuals that turn an output and leave its length. output: (facts, d_out).

    Where a norm stands behind the projection only the output's direction counts. Left to itself a descent
    runs outward, for its gradients are tangents, and the long residual that it ends with says no more than
    a short one, but spills over all other tokens.
    """

    output: Tensor

    def nearest(self, value: Tensor) -> Tensor:
        """Rows (facts, d_out) such that output + row has the direction it had, and the output's length."""
        turned = self.output + value
        longer = turned.norm(dim=-1, keepdim=True) / self.output.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        kept: Tensor = turned / longer.clamp(min=1e-12) - self.output
        return kept

    def select(self, keep: Tensor) -> Sphere:
        """The rows that stay; `keep` (facts,) bool."""
        return Sphere(self.output[keep])


Room = Ball | Sphere


@torch.no_grad()
def scale_of(model: LanguageModel, layer: int, projected: Tensor, hidden: Tensor) -> Tensor:
    """The length of a residual (facts,) that would change the hidden state by its own length.

    projected   (facts, d_out)  the projection's output at the lookup
    hidden      (facts, d)      the hidden state that leaves the layer there
    """
    scale: Tensor = hidden.float().norm(dim=-1)
    if model.family.post_norm is None:
        return scale / abs(model.family.gain)
    length: Tensor = projected.float().norm(dim=-1)
    shown: Tensor = model.added(layer, projected).float().norm(dim=-1)
    # No residual that turns the output is longer than twice the output.
    return torch.minimum(scale / shown.clamp(min=1e-12) * length, 2 * length)


def room_of(model: LanguageModel, projected: Tensor, scale: Tensor, norm_cap: float | Tensor) -> Room:
    """Where the residuals of facts may lie; `norm_cap`, one or (facts,), is a share of `scale` (facts,)."""
    return Ball(norm_cap * scale) if model.family.post_norm is None else Sphere(projected.float())
