"""Descent for many facts at once: each row is optimised by itself, and rows can leave.

Two optimisers. `adam` is MEMIT's own. `normalised` follows the gradient's direction with a step length that
is a share of the hidden norm: it reaches the same loss with residuals a third shorter and in fewer steps,
because Adam's first steps move every coordinate alike, whether it matters or not (docs/LOG.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from corrigenda.config import Editing

MOMENTUM = 0.5
DECAY = 0.95  # of the step length, per step


@dataclass(frozen=True, slots=True)
class Adam:
    """Kingma & Ba 2015, with torch's defaults. value, mean, square: (facts, d_out)."""

    value: Tensor
    mean: Tensor
    square: Tensor
    rate: float

    def step(self, gradient: Tensor, count: int) -> Adam:
        """One step against `gradient` (facts, d_out); `count` starts at 1."""
        mean = 0.9 * self.mean + 0.1 * gradient
        square = 0.999 * self.square + 0.001 * gradient**2
        unbiased = mean / (1 - 0.9**count), square / (1 - 0.999**count)
        moved = self.value.detach() - self.rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        return Adam(moved, mean, square, self.rate)

    def capped(self, limit: Tensor) -> Adam:
        return replace(self, value=inside(self.value, limit))

    def select(self, keep: Tensor) -> Adam:
        """The rows that stay; `keep` (facts,) bool."""
        return Adam(self.value[keep], self.mean[keep], self.square[keep], self.rate)


@dataclass(frozen=True, slots=True)
class Normalised:
    """Heavy ball on unit gradients. value, velocity: (facts, d_out); length: (facts,) of the first step."""

    value: Tensor
    velocity: Tensor
    length: Tensor

    def step(self, gradient: Tensor, count: int) -> Normalised:
        """One step against `gradient` (facts, d_out); `count` starts at 1."""
        direction = gradient / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        length = self.length[:, None] * DECAY ** (count - 1)
        velocity = MOMENTUM * self.velocity - length * direction
        return Normalised(self.value.detach() + velocity, velocity, self.length)

    def capped(self, limit: Tensor) -> Normalised:
        return replace(self, value=inside(self.value, limit))

    def select(self, keep: Tensor) -> Normalised:
        """The rows that stay; `keep` (facts,) bool."""
        return Normalised(self.value[keep], self.velocity[keep], self.length[keep])


def inside(value: Tensor, limit: Tensor) -> Tensor:
    """Rows (facts, d_out) projected on balls of radius `limit` (facts,)."""
    norms = value.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    kept: Tensor = value * (limit[:, None] / norms).clamp(max=1.0)
    return kept


def start(settings: Editing, scale: Tensor, width: int) -> Adam | Normalised:
    """All rows at zero. scale (facts,): the hidden norms that step lengths are shares of."""
    zero = torch.zeros(len(scale), width, device=scale.device)
    if settings.optimiser == "adam":
        return Adam(zero, zero.clone(), zero.clone(), settings.learning_rate)
    return Normalised(zero, zero.clone(), settings.first_step * scale)
