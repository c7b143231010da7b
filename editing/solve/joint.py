"""The joint solve of a night: facts that got too little are pressed.

A pure function of the set of targets: they are taken in the order of their digests. Nothing is asked of the
model, for what a fact needs was measured when its target was found (`docs/design/0002-balanced-solve.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corrigenda.editing.solve.closed_form import solve_moments, solve_update
from corrigenda.editing.solve.columns import columns_of, contexts_of, moments_of
from corrigenda.editing.solve.systems import FEW, ByMoments, InFactSpace, System
from corrigenda.editing.solve.weight import Needs, OtherText, find_weight, total_change, weigh
from corrigenda.editing.targets.target import Target
from corrigenda.settings import SolveSettings

PRESS = 2.0


@dataclass(frozen=True, slots=True)
class Solved:
    """The joint solve of a night.

    updates  by layer of the band (d_out, d_in) float64
    weight   background keys per fact that it was solved with
    rounds   solves after the first: each presses the facts harder that got too little
    short    facts that got too little all the same
    change   of what the layers add to background text, see `total_change`
    """

    updates: tuple[Tensor, ...]
    weight: float
    rounds: int
    short: int
    change: float


def solve_balanced(
    targets: Mapping[str, Target], others: Sequence[OtherText], settings: SolveSettings
) -> Solved:
    """The gentlest joint updates under which the facts are said; `others`: by layer of the band.

    Each layer has a solve of its own, and all have one weight.

    One weight for all facts is too much for most and too little for some. So all facts begin light, and
    those of which an update gives less than the share of their residual that they need count PRESS times
    as much in the next solve: D = R W K^T (weight C + K W K^T)^-1. All weights change at once. Pressing ends
    before the updates change other text more than `settings.most_change`. So it is with `alphaedit`, whose
    weight says how little of other text a direction may carry; `emmet` takes no weight, and no limit holds.
    """
    ordered = [targets[digest] for digest in sorted(targets)]
    needs = Needs.of(ordered, [other.scale for other in others])
    if settings.solver == "emmet":
        # Equality weighs nothing against other text: there is no weight to find, and nothing to press.
        covariances = [other.covariance for other in others]
        updates = solve_targets(targets, covariances, settings, weight=1.0)
        short = int((needs.margins(updates) < 0).sum())
        return Solved(updates, 1.0, 0, short, total_change(others, updates))
    pressure = torch.ones(len(ordered), dtype=torch.float64)
    systems = [system_of(ordered, place, other, settings) for place, other in enumerate(others)]
    if settings.covariance_weight == "auto":
        best = find_weight(systems, needs, others, settings)
        room = best.room
    else:
        best = weigh(systems, needs, others, settings, float(settings.covariance_weight))
        room = True
    rounds = 0
    while room and rounds < settings.balance_rounds and bool(best.short.any()):
        pressure = torch.where(best.short, pressure * PRESS, pressure)
        systems = [system.pressed(pressure) for system in systems]
        pressed = weigh(systems, needs, others, settings, best.weight)
        if not pressed.allowed:
            break
        best, rounds = pressed, rounds + 1
    return Solved(best.updates, best.weight, rounds, int(best.short.sum()), best.change)


def system_of(targets: Sequence[Target], place: int, other: OtherText, settings: SolveSettings) -> System:
    """The least squares of the band's layer number `place`, in the form that is cheaper."""
    columns, inputs = int(contexts_of(targets).sum()), len(other.covariance)
    if settings.solver == "memit" and columns <= FEW * inputs:
        return InFactSpace.of(targets, place, other.factor)
    return ByMoments.of(targets, place, other.covariance, settings.solver)


def solve_targets(
    targets: Mapping[str, Target], covariances: Sequence[Tensor], settings: SolveSettings, *, weight: float
) -> tuple[Tensor, ...]:
    """One solve a layer in which all facts count alike, in the order of their digests."""
    ordered = [targets[digest] for digest in sorted(targets)]
    alike = torch.ones(len(ordered), dtype=torch.float64)

    def solved(place: int, covariance: Tensor) -> Tensor:
        if settings.solver == "emmet":
            return solve_update(*columns_of(ordered, alike, place), covariance, weight, settings.solver)
        return solve_moments(moments_of(ordered, alike, place), covariance, weight, settings.solver)

    return tuple(solved(place, covariance) for place, covariance in enumerate(covariances))
