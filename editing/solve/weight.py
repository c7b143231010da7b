"""How heavily other text counts in a joint solve: given, or as heavily as the facts bear it.

Nothing is asked of the model: what a fact needs was measured when its target was found, and what other text
suffers is told by the covariance of its keys (`docs/design/0002-balanced-solve.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log

import torch
from torch import Tensor

from corrigenda.editing.solve.closed_form import cholesky, null_space_limit, ridged
from corrigenda.editing.solve.systems import System
from corrigenda.editing.targets.target import Target
from corrigenda.settings import SolveSettings

# "auto" as covariance weight: the largest at which so many facts get the share of their residual that they
# need, as far as `most_change` allows. The others are pressed one by one.
_ENOUGH = 0.85
LIGHTEST, HEAVIEST = 1e-2, 1e5
# The search begins at START and ends when the share of a residual, or the log of the change, is within CLOSE
# of its mark on the good side, when weights are within NARROW of each other (in logs), or after TRIES solves.
START, CLOSE, NARROW, TRIES = 300.0, 0.02, 0.06, 12


@dataclass(frozen=True)
class OtherText:
    """What other text asks of one edited map.

    covariance   (d_in, d_in) E[k k^T] of its keys
    energy       E|W k|^2, the mean square of what the pristine map W adds
    scale        what residuals are measured in at this layer, see `Band`
    """

    covariance: Tensor
    energy: float
    scale: float = 1.0

    @classmethod
    def of(cls, weight: Tensor, covariance: Tensor, scale: float = 1.0) -> OtherText:
        """weight: (d_out, d_in), the pristine base's."""
        return cls(covariance, _mean_square(weight.detach().cpu().double(), covariance), scale)

    @cached_property
    def factor(self) -> Tensor:
        """The Cholesky factor of the covariance with its ridge (d_in, d_in): one for all solves."""
        return cholesky(ridged(self.covariance.double()), 1.0)

    def change(self, update: Tensor) -> float:
        """E|D k|^2 / E|W k|^2 for an update D (d_out, d_in).

        Harm to other text follows it: at layer 4 of SmolLM2 perplexity rises by a seventh to a fifth of it,
        from 100 to 1,000 facts (docs/log).
        """
        return _mean_square(update, self.covariance) / max(self.energy, 1e-30)


def _mean_square(linear_map: Tensor, covariance: Tensor) -> float:
    """E|M k|^2 of keys with this covariance."""
    return float((linear_map @ covariance.double() * linear_map).sum())


@dataclass(frozen=True, slots=True)
class Needs:
    """What facts need of the updates at their plain prompts.

    keys        (width, facts, d_in)   of the plain prompts
    directions  (width, facts, d_out)  residuals over the squared length of all layers' together, both in
                the layers' scales
    shares      (facts,)  of its residuals, from which on a fact is said; infinite if it never is
    """

    keys: Tensor
    directions: Tensor
    shares: Tensor

    @classmethod
    def of(cls, targets: Sequence[Target], scales: Sequence[float]) -> Needs:
        keys = torch.stack([target.keys[:, 0] for target in targets], dim=1).double()
        wanted = torch.stack([target.residual for target in targets], dim=1).double()
        weights = torch.tensor(scales, dtype=torch.float64)[:, None, None] ** -2
        lengths = (wanted.square() * weights).sum((0, 2))[:, None].clamp(min=1e-30)
        needed = torch.tensor([target.needed for target in targets], dtype=torch.float64)
        return cls(keys, wanted * weights / lengths, needed)

    def margins(self, updates: Sequence[Tensor]) -> Tensor:
        """The share of its residuals that each fact gets above what it needs, (facts,).

        updates   by layer (d_out, d_in)

        A fact that the whole residual does not make the model say lacks nothing that a solve could give: 1.
        """
        each = zip(self.keys, self.directions, updates, strict=True)
        given = sum((keys @ update.T * wanted).sum(-1) for keys, wanted, update in each)
        return torch.where(self.shares.isfinite(), given - self.shares, 1.0)


@dataclass(frozen=True, slots=True)
class Weighed:
    """One solve of all layers at one covariance weight.

    updates   by layer (d_out, d_in) float64
    weight    background keys per fact
    margins   (facts,) see `Needs.margins`
    change    for other text, see `total_change`
    limit     the most change that is allowed
    """

    updates: tuple[Tensor, ...]
    weight: float
    margins: Tensor
    change: float
    limit: float

    @property
    def short(self) -> Tensor:
        """Which facts get less than they need, (facts,) bool."""
        return self.margins < 0

    @property
    def spare(self) -> float:
        """The share of a residual above what is needed that all but the worst of the facts get."""
        return float(self.margins.sort().values[int((1 - _ENOUGH) * len(self.margins))])

    @property
    def allowed(self) -> bool:
        return self.change <= self.limit

    @property
    def room(self) -> bool:
        """Whether pressing may go on from here: not where the limit decides."""
        return self.spare >= 0

    @property
    def mark(self) -> float:
        """Positive where the weight should be heavier: it still serves enough facts, or other text suffers.

        Zero lies half of CLOSE on the good side, so that a search which ends near it has kept the limit.
        """
        return max(self.spare - CLOSE / 2, log(max(self.change, 1e-30) / self.limit) + CLOSE / 2)


def weigh(
    systems: Sequence[System],
    needs: Needs,
    others: Sequence[OtherText],
    settings: SolveSettings,
    weight: float,
) -> Weighed:
    """The solve at one weight, and how it serves facts and other text; `systems`, `others`: by layer."""
    updates = tuple(system.solve(weight) for system in systems)
    return Weighed(
        updates, weight, needs.margins(updates), total_change(others, updates), settings.most_change
    )


def total_change(others: Sequence[OtherText], updates: Sequence[Tensor]) -> float:
    """What the updates of a band change together: its width times the sum over its layers.

    What layers change in one text adds up, for they all answer to the same keys: the square of a sum of W
    parts is at most W times the sum of their squares. Measured so, perplexity follows the change of a band
    as it follows that of a single layer (docs/log).
    """
    return len(others) * sum(other.change(update) for other, update in zip(others, updates, strict=True))


def find_weight(
    systems: Sequence[System], needs: Needs, others: Sequence[OtherText], settings: SolveSettings
) -> Weighed:
    """The solve at the heaviest weight at which enough facts get what they need; but at none at which the
    update changes other text more than `settings.most_change`: a layer has not room for any number of
    facts, and beyond it each fact that is won costs more than it is worth.

    The secant method on the logarithm of the weight, for spare and the log of the change are nearly straight
    there, kept between weights known to be too light and too heavy: four solves or so.
    """
    heaviest = HEAVIEST
    if settings.solver == "alphaedit":
        heaviest = min(heaviest, *(0.999 * null_space_limit(other.covariance) for other in others))
    low, high = log(LIGHTEST), log(heaviest)
    light = heavy = before = None
    # At first the change is taken to fall as the weight grows.
    here, slope = log(min(START, heaviest)), -1.0
    for _ in range(TRIES):
        tried = weigh(systems, needs, others, settings, exp(here))
        if tried.allowed and abs(tried.mark) <= CLOSE / 2:
            return tried
        if before is not None:
            slope = (tried.mark - before[1]) / (here - before[0])
        before = here, tried.mark
        if tried.mark > 0:
            low, light = here, tried
        else:
            high, heavy = here, tried
        if high - low < NARROW:
            break
        aim = here - tried.mark / slope if slope < 0 else low
        here = aim if low < aim < high else (low + high) / 2
    if light and light.allowed:
        return light
    return heavy or weigh(systems, needs, others, settings, heaviest)
