"""The joint solve of a night: how heavily other text counts, and which facts are pressed.

A pure function of the set of targets: they are taken in the order of their digests. Nothing is asked of the
model, for what a fact needs was measured when its target was found (`docs/design/0002-balanced-solve.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import exp, log

import torch
from torch import Tensor

from corrigenda.config import Editing
from corrigenda.editing.solve import Moments, null_space_limit, solve_moments, solve_update
from corrigenda.editing.targets import Target
from corrigenda.errors import EditError

# "auto" as covariance weight: the largest at which so many facts get the share of their residual that they
# need, as far as `most_change` allows. The others are pressed one by one.
ENOUGH = 0.85
LIGHTEST, HEAVIEST, HALVINGS = 1e-2, 1e5, 8
PRESS = 2.0
# Targets whose columns lie in memory at once.
BLOCK = 256


@dataclass(frozen=True, slots=True)
class Solved:
    """The joint solve of a night.

    update   (d_out, d_in) float64
    weight   background keys per fact that it was solved with
    rounds   solves after the first: each presses the facts harder that got too little
    short    facts that got too little all the same
    change   of what the layer adds to background text, as a share of its mean square
    """

    update: Tensor
    weight: float
    rounds: int
    short: int
    change: float


@dataclass(frozen=True, slots=True)
class OtherText:
    """What other text asks of the edited map.

    covariance   (d_in, d_in) E[k k^T] of its keys
    energy       E|W k|^2, the mean square of what the pristine map W adds
    """

    covariance: Tensor
    energy: float

    @classmethod
    def of(cls, weight: Tensor, covariance: Tensor) -> OtherText:
        """weight: (d_out, d_in), the pristine base's."""
        return cls(covariance, _mean_square(weight.detach().double().cpu(), covariance))

    def change(self, update: Tensor) -> float:
        """E|D k|^2 / E|W k|^2 for an update D (d_out, d_in).

        Harm to other text follows it: at layer 4 of SmolLM2 perplexity rises by a seventh to a fifth of it,
        from 100 to 1,000 facts (docs/LOG.md).
        """
        return _mean_square(update, self.covariance) / max(self.energy, 1e-30)


def _mean_square(linear_map: Tensor, covariance: Tensor) -> float:
    """E|M k|^2 of keys with this covariance."""
    return float((linear_map @ covariance.double() * linear_map).sum())


def solve_balanced(targets: Mapping[str, Target], other: OtherText, settings: Editing) -> Solved:
    """The gentlest joint update under which the facts are said.

    One weight for all facts is too much for most and too little for some. So all facts begin light, and
    those of which an update gives less than the share of their residual that they need count PRESS times
    as much in the next solve: D = R W K^T (weight C + K W K^T)^-1. All weights change at once. Pressing ends
    before the update changes other text more than `settings.most_change`. So it is with `alphaedit`, whose
    weight says how little of other text a direction may carry; `emmet` takes no weight, and no limit holds.
    """
    ordered = [targets[digest] for digest in sorted(targets)]
    if settings.solver == "emmet":
        # Equality weighs nothing against other text: there is no weight to find, and nothing to press.
        update = solve_targets(targets, other.covariance, settings, weight=1.0)
        return _outcome(ordered, other, update, 1.0, 0)
    moments = moments_of(ordered, torch.ones(len(ordered), dtype=torch.float64))
    weight, room = pick_weight(ordered, moments, other, settings)
    pressure = torch.ones(len(ordered), dtype=torch.float64)
    update = solve_moments(moments, other.covariance, weight, settings.solver)
    rounds = 0
    while room and rounds < settings.balance_rounds:
        short = lacking(ordered, update)
        if not bool(short.any()):
            break
        some = [target for target, is_short in zip(ordered, short.tolist(), strict=True) if is_short]
        moments = moments + moments_of(some, (PRESS - 1) * pressure[short])
        pressure = torch.where(short, pressure * PRESS, pressure)
        pressed = solve_moments(moments, other.covariance, weight, settings.solver)
        if other.change(pressed) > settings.most_change:
            break
        update, rounds = pressed, rounds + 1
    return _outcome(ordered, other, update, weight, rounds)


def _outcome(
    targets: Sequence[Target], other: OtherText, update: Tensor, weight: float, rounds: int
) -> Solved:
    short = int(lacking(targets, update).sum())
    return Solved(update, weight, rounds, short, other.change(update))


def pick_weight(
    targets: Sequence[Target], moments: Moments, other: OtherText, settings: Editing
) -> tuple[float, bool]:
    """The covariance weight that the settings ask for, or what "auto" finds for these very targets; and
    whether there is room left for pressing, which there is not where the limit decided.

    The largest at which enough facts get what they need; but none at which the update changes other text
    more than `settings.most_change`: a layer has not room for any number of facts, and beyond it each fact
    that is won costs more than it is worth.
    """
    if settings.covariance_weight != "auto":
        return float(settings.covariance_weight), True
    heaviest = HEAVIEST
    if settings.solver == "alphaedit":
        heaviest = min(heaviest, 0.999 * null_space_limit(other.covariance))
    low, high, gentle = log(LIGHTEST), log(heaviest), False
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        update = solve_moments(moments, other.covariance, exp(middle), settings.solver)
        allowed = other.change(update) <= settings.most_change
        too_little = float(lacking(targets, update).double().mean()) > 1 - ENOUGH
        if too_little and allowed:
            high = middle
        else:
            low, gentle = middle, allowed
    return exp(low if gentle else high), gentle


def lacking(targets: Sequence[Target], update: Tensor) -> Tensor:
    """Which facts (facts,) bool get less of their residual, at the plain prompt's key, than they need.

    A fact that the whole residual does not make the model say lacks nothing that a solve could give.
    """
    needed = torch.tensor([target.needed for target in targets], dtype=torch.float64)
    return (achieved(targets, update) < needed) & needed.isfinite()


def achieved(targets: Sequence[Target], update: Tensor) -> Tensor:
    """The share of each residual that an update gives its plain prompt, along the residual, (facts,)."""
    keys = torch.stack([target.keys[0] for target in targets]).double()
    wanted = torch.stack([target.residual for target in targets]).double()
    given = keys @ update.T
    return (given * wanted).sum(-1) / wanted.square().sum(-1).clamp(min=1e-30)


def solve_targets(
    targets: Mapping[str, Target], covariance: Tensor, settings: Editing, *, weight: float
) -> Tensor:
    """One solve in which all facts count alike, in the order of their digests."""
    ordered = [targets[digest] for digest in sorted(targets)]
    alike = torch.ones(len(ordered), dtype=torch.float64)
    if settings.solver == "emmet":
        return solve_update(*columns_of(ordered, alike), covariance, weight, settings.solver)
    return solve_moments(moments_of(ordered, alike), covariance, weight, settings.solver)


def columns_of(targets: Sequence[Target], pressure: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted keys (d_in, columns) and residuals (d_out, columns) of the least-squares problem.

    Every context's key is a column of its own, and a fact's columns share its weight, so that their squares
    add up to its pressure: the fact must hold behind any context, not behind their average.
    """
    shares = _column_shares(targets, pressure)
    each = [target.residual.double().expand(len(target.keys), -1) for target in targets]
    return _key_columns(targets, shares), (torch.cat(each) * shares[:, None]).T


def _column_shares(targets: Sequence[Target], pressure: Tensor) -> Tensor:
    """(columns,) the factor of each column."""
    counts = torch.tensor([len(target.keys) for target in targets])
    return (pressure / counts).sqrt().repeat_interleave(counts)


def _key_columns(targets: Sequence[Target], shares: Tensor) -> Tensor:
    """(d_in, columns) weighted keys."""
    return (torch.cat([target.keys for target in targets]).double() * shares[:, None]).T


def moments_of(targets: Sequence[Target], pressure: Tensor) -> Moments:
    """K K^T and R K^T of `columns_of`, a bounded number of columns at a time."""
    if not targets:
        raise EditError("there is nothing to solve for", remedy="Pass at least one target")
    parts = (
        _moments(targets[first : first + BLOCK], pressure[first : first + BLOCK])
        for first in range(0, len(targets), BLOCK)
    )
    return reduce(Moments.__add__, parts)


def _moments(targets: Sequence[Target], pressure: Tensor) -> Moments:
    """Of a few targets. A fact's columns share one residual: R K^T needs the mean of its keys alone."""
    keys = _key_columns(targets, _column_shares(targets, pressure))
    means = torch.stack([target.keys.double().mean(0) for target in targets])
    residuals = torch.stack([target.residual for target in targets]).double()
    return Moments(_gram(keys), (residuals * pressure[:, None]).T @ means)


def _gram(columns: Tensor) -> Tensor:
    """K K^T. numpy sees that it is symmetric, and forms one half of it (BLAS syrk); torch forms both."""
    array = columns.numpy()
    return torch.from_numpy(array @ array.T)
