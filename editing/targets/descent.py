"""Descent for many facts at once: each row is optimised by itself, and rows can leave.

Two optimisers. `adam` is MEMIT's own. `normalised` follows the gradient's direction with a step length that
is a share of the residual's scale (see `room`), and measures that direction in the metric of the background:
a step goes where it lowers the target's loss most for the harm it does to other text (see `sensitivity`).
Adam's first steps move every coordinate alike, whether it matters or not (docs/log has the figures).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import linear

from corrigenda.editing.targets.scale import Room
from corrigenda.settings import TargetSettings

MOMENTUM = 0.5
DECAY = 0.85  # of the step length, per step
# The second phase starts near its goal: its first step is this share of the first phase's.
CALM = 0.5
# By layer (d_out, d_out). The same tensors for a whole run: products in half precision keep what they halve.
Metric = tuple[Tensor, ...]


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

    def within(self, room: Room) -> Adam:
        return replace(self, value=room.nearest(self.value))

    def select(self, keep: Tensor) -> Adam:
        """The rows that stay; `keep` (facts,) bool."""
        return Adam(self.value[keep], self.mean[keep], self.square[keep], self.rate)


@dataclass(frozen=True, slots=True)
class Normalised:
    """Heavy ball on unit gradients. value, velocity: (facts, d_out); length: (facts,) of the first step.

    metric   by layer (d_out, d_out), symmetric: what gradients are multiplied by before the length of the
             whole is made one
    """

    value: Tensor
    velocity: Tensor
    length: Tensor
    metric: Metric | None = None

    def step(self, gradient: Tensor, count: int) -> Normalised:
        """One step against `gradient` (facts, d_out); `count` starts at 1."""
        natural = gradient if self.metric is None else _through(self.metric, gradient)
        direction = natural / natural.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        length = self.length[:, None] * DECAY ** (count - 1)
        velocity = MOMENTUM * self.velocity - length * direction
        return replace(self, value=self.value.detach() + velocity, velocity=velocity)

    def within(self, room: Room) -> Normalised:
        return replace(self, value=room.nearest(self.value))

    def select(self, keep: Tensor) -> Normalised:
        """The rows that stay; `keep` (facts,) bool."""
        return Normalised(self.value[keep], self.velocity[keep], self.length[keep], self.metric)


def _through(metric: Metric, gradient: Tensor) -> Tensor:
    """Each layer's part of the gradient (facts, width * d_out) times its own metric."""
    parts = torch.split(gradient, len(metric[0]), dim=-1)
    return torch.cat([linear(part, own) for part, own in zip(parts, metric, strict=True)], dim=-1)


def start(
    settings: TargetSettings,
    scale: Tensor,
    value: Tensor,
    *,
    width: int = 1,
    calm: bool = False,
    metric: Metric | None = None,
) -> Adam | Normalised:
    """A descent from `value` (facts, width * d_out).

    scale   (facts,) what step lengths are shares of, see `room.scale_of`
    width   layers of the band: the more share the work, the shorter is the whole way
    calm    begin with shorter steps, near the goal
    metric  of `normalised`: see `Normalised`
    """
    still = torch.zeros_like(value)
    if settings.descent.kind == "adam":
        return Adam(value, still, still.clone(), settings.descent.learning_rate)
    length = settings.descent.first_step / width**0.5 * scale * (CALM if calm else 1.0)
    return Normalised(value, still, length, metric)


class Objective(Protocol):
    """What is descended: losses of some facts, which may become fewer."""

    def losses(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The objective and the part of it that decides when a fact is done, nats, both (facts,)."""

    def select(self, keep: Tensor) -> Self:
        """Only the facts that stay; `keep` (facts,) bool."""


@dataclass(frozen=True, slots=True)
class Reached:
    """Where the facts' descents ended. value (facts, d_out); loss (facts,) nats; steps (facts,) int64."""

    value: Tensor
    loss: Tensor
    steps: Tensor


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a fact may descend.

    evaluations   of the objective; the last one is not followed by a step
    stop_loss     nats; a fact below it leaves, and keeps the value it was measured with
    late          evaluations more, for facts that are not even below `late_loss` after these
    """

    evaluations: int
    stop_loss: float
    late: int = 0
    late_loss: float = 0.0

    @classmethod
    def on_plain_prompts(cls, settings: TargetSettings) -> Patience:
        return cls(settings.warm_steps, settings.warm_loss)

    @classmethod
    def behind_contexts(cls, settings: TargetSettings) -> Patience:
        return cls(settings.steps, settings.stop_loss, settings.late_steps, settings.late_loss)

    @property
    def longest(self) -> int:
        """Evaluations of the fact that takes most."""
        return self.evaluations + self.late

    def enough(self, step: int) -> float:
        """The loss below which a fact leaves after an evaluation; they count from 0."""
        if self.late and step == self.evaluations - 1:
            return max(self.late_loss, self.stop_loss)
        return self.stop_loss


def descend(objective: Objective, state: Adam | Normalised, room: Room, patience: Patience) -> Reached:
    """Descend for every fact by itself, within the room that its residual has."""
    best = state.value.detach().clone()
    facts = len(best)
    loss = torch.zeros(facts, device=best.device)
    steps = torch.zeros(facts, dtype=torch.long, device=best.device)
    alive = torch.arange(facts, device=best.device)
    for step in range(patience.longest):
        value = state.value.detach().requires_grad_(True)
        losses, decisive = objective.losses(value)
        best[alive], loss[alive], steps[alive] = value.detach(), decisive.detach(), step
        going = decisive >= patience.enough(step)
        if step == patience.longest - 1 or not bool(going.any()):
            break
        (gradient,) = torch.autograd.grad(losses.sum(), value)
        state = state.step(gradient, step + 1).within(room)
        if not bool(going.all()):
            objective, state = objective.select(going), state.select(going)
            alive, room = alive[going], room.select(going)
    return Reached(best, loss, steps)
