"""One layer's least squares, ready to be solved at many weights and pressures.

Two forms of one update: with few columns in the space of the facts, where the covariance is factored once and
each weight costs a system of their number; with many in the space of the inputs, from moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from corrigenda.editing.solve.closed_form import Moments, Solver, cholesky, left_divide, solve_moments
from corrigenda.editing.solve.columns import columns_of, contexts_of, moments_of
from corrigenda.editing.targets.target import Target

# Columns are few when they are at most this share of the inputs: a factorisation costs their cube.
FEW = 0.5


class System(Protocol):
    """What a search for a weight, and pressing, ask of a layer."""

    def solve(self, weight: float) -> Tensor:
        """The update (d_out, d_in) float64. Raises EditError when the system is not positive definite."""

    def pressed(self, pressure: Tensor) -> System:
        """The same with other weights of the facts, (facts,) float64."""


@dataclass(frozen=True, slots=True)
class InFactSpace:
    """D = R (w P^-1 + K^T C^-1 K)^-1 K^T C^-1 with P the columns' pressures: the normal equations' update by
    the push-through identity, without a system of the inputs.

    residuals   (d_out, columns)
    back        (d_in, columns)   C^-1 K
    gram        (columns, columns)  K^T C^-1 K
    pressure    (columns,)
    contexts    (facts,) columns of each fact
    """

    residuals: Tensor
    back: Tensor
    gram: Tensor
    pressure: Tensor
    contexts: Tensor

    @classmethod
    def of(cls, targets: Sequence[Target], place: int, factor: Tensor) -> InFactSpace:
        """factor: the Cholesky factor of the layer's covariance, see `OtherText.factor`."""
        alike = torch.ones(len(targets), dtype=torch.float64)
        keys, residuals = columns_of(targets, alike, place)
        back = left_divide(factor, keys)
        contexts = contexts_of(targets)
        return cls(residuals, back, keys.T @ back, alike.repeat_interleave(contexts), contexts)

    def solve(self, weight: float) -> Tensor:
        normal = self.gram + torch.diag(weight / self.pressure)
        found: Tensor = left_divide(cholesky(normal, weight), self.residuals.T).T @ self.back.T
        return found

    def pressed(self, pressure: Tensor) -> InFactSpace:
        return replace(self, pressure=pressure.repeat_interleave(self.contexts))


@dataclass(frozen=True, slots=True)
class ByMoments:
    """D = R K^T (w C + K K^T)^-1 from sums over all columns; pressing adds to them."""

    targets: Sequence[Target]
    place: int
    covariance: Tensor
    solver: Solver
    moments: Moments
    pressure: Tensor

    @classmethod
    def of(cls, targets: Sequence[Target], place: int, covariance: Tensor, solver: Solver) -> ByMoments:
        alike = torch.ones(len(targets), dtype=torch.float64)
        return cls(targets, place, covariance, solver, moments_of(targets, alike, place), alike)

    def solve(self, weight: float) -> Tensor:
        return solve_moments(self.moments, self.covariance, weight, self.solver)

    def pressed(self, pressure: Tensor) -> ByMoments:
        more = (pressure - self.pressure).nonzero()[:, 0].tolist()
        some, extra = [self.targets[i] for i in more], (pressure - self.pressure)[more]
        moments = self.moments + moments_of(some, extra, self.place) if some else self.moments
        return replace(self, moments=moments, pressure=pressure)
