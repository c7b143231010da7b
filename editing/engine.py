"""One night's edit of one layer: targets of what is new, then one closed-form solve over everything.

A pure function of the base, the active requests and the settings. Order of arrival does not matter: the
solve takes groups of requests in the order of their digests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corrigenda.config import Editing
from corrigenda.editing.groups import Group, grouped
from corrigenda.editing.solve import Moments, solve_moments, solve_update
from corrigenda.editing.targets import Target, optimise_targets, takes
from corrigenda.errors import EditError
from corrigenda.facts import EditRequest
from corrigenda.models.loading import LanguageModel

# What "auto" stands for as norm cap: a ball that few residuals reach (docs/LOG.md).
AUTO_NORM_CAP = 1.5
# "auto" as covariance weight: the largest at which so many facts get the share of their residual that they
# need. The others are pressed one by one.
ENOUGH = 0.85
LIGHTEST, HEAVIEST, HALVINGS = 1e-2, 1e5, 12
PRESS = 2.0
# What a fact needs was measured without the others: so much more makes up for their interference.
MARGIN = 1.15


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of a night.

    groups    group digest -> the requests it holds, of all requests that can be edited
    known     group digest -> target, the same keys
    fresh     those of them that were computed now
    refused   request digest -> why this model cannot take the request
    """

    groups: dict[str, Group]
    known: dict[str, Target]
    fresh: dict[str, Target]
    refused: dict[str, EditError]


def find_targets(
    model: LanguageModel,
    layer: int,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    settings: Editing,
    *,
    norm_cap: float,
    cached: Mapping[str, Target],
    metric: Tensor | None = None,
    advance: Callable[[int], None] = lambda _done: None,
) -> Targets:
    """Targets of all requests; only what `cached` lacks is computed.

    metric    (d_out, d_out) of the descent, see `descent.Normalised`
    advance   called with the number of groups that are done
    """
    accepted, refused = _sorted_out(model, requests, contexts, cached)
    groups = {group.digest: group for group in grouped(accepted)}
    new = [group for digest, group in groups.items() if digest not in cached]
    advance(len(groups) - len(new))
    found = optimise_targets(
        model, layer, new, contexts, settings, norm_cap=norm_cap, metric=metric, advance=advance
    )
    fresh = {group.digest: target for group, target in zip(new, found, strict=True)}
    known = {digest: cached[digest] if digest in cached else fresh[digest] for digest in groups}
    return Targets(groups, known, fresh, refused)


def _sorted_out(
    model: LanguageModel,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    cached: Mapping[str, Target],
) -> tuple[list[EditRequest], dict[str, EditError]]:
    """Requests that can be edited, and why the others cannot; what has a target was looked at before."""
    accepted, refused = [], {}
    for request in requests:
        fault = None if request.digest in cached else takes(model, request, contexts)
        if fault is None:
            accepted.append(request)
        else:
            refused[request.digest] = fault
    return accepted, refused


@dataclass(frozen=True, slots=True)
class Solved:
    """The joint solve of a night.

    update   (d_out, d_in) float64
    weight   background keys per fact that it was solved with
    rounds   solves after the first: each presses the facts harder that got too little
    short    facts that got too little all the same
    """

    update: Tensor
    weight: float
    rounds: int
    short: int


def solve_balanced(targets: Mapping[str, Target], covariance: Tensor, settings: Editing) -> Solved:
    """The gentlest joint update under which the facts are said.

    One weight for all facts is too much for most and too little for some. So all facts begin light, and
    those of which an update gives less than the share of their residual that they need count PRESS times
    as much in the next solve: D = R W K^T (weight C + K W K^T)^-1. Facts are taken in the order of their
    digests and all weights change at once, so that the result is a function of the set. Nothing is asked of
    the model: what a fact needs was measured when its target was found.
    """
    ordered = [targets[digest] for digest in sorted(targets)]
    if settings.solver != "memit":
        weight = HEAVIEST**0.5 if settings.covariance_weight == "auto" else settings.covariance_weight
        update = solve_targets(targets, covariance, settings, weight=weight)
        return Solved(update, weight, 0, int(lacking(ordered, update).sum()))
    moments = moments_of(ordered, torch.ones(len(ordered), dtype=torch.float64))
    weight = pick_weight(ordered, moments, covariance, settings)
    pressure = torch.ones(len(ordered), dtype=torch.float64)
    update = solve_moments(moments, covariance, weight)
    for rounds in range(settings.balance_rounds):
        short = lacking(ordered, update)
        if not bool(short.any()):
            return Solved(update, weight, rounds, 0)
        some = [target for target, is_short in zip(ordered, short.tolist(), strict=True) if is_short]
        moments = moments + moments_of(some, (PRESS - 1) * pressure[short])
        pressure = torch.where(short, pressure * PRESS, pressure)
        update = solve_moments(moments, covariance, weight)
    return Solved(update, weight, settings.balance_rounds, int(lacking(ordered, update).sum()))


def pick_weight(targets: Sequence[Target], moments: Moments, covariance: Tensor, settings: Editing) -> float:
    """The covariance weight that the settings ask for, or what "auto" finds for these very targets."""
    if settings.covariance_weight != "auto":
        return float(settings.covariance_weight)
    low, high = torch.tensor([LIGHTEST, HEAVIEST], dtype=torch.float64).log().tolist()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = lacking(targets, solve_moments(moments, covariance, float(torch.tensor(middle).exp())))
        low, high = (low, middle) if float(short.double().mean()) > 1 - ENOUGH else (middle, high)
    return float(torch.tensor(low).exp())


def lacking(targets: Sequence[Target], update: Tensor) -> Tensor:
    """Which facts (facts,) bool get less of their residual, at the plain prompt's key, than they need.

    A fact that the whole residual does not make the model say lacks nothing that a solve could give.
    """
    needed = torch.tensor([target.needed for target in targets], dtype=torch.float64)
    return (achieved(targets, update) < (MARGIN * needed).clamp(max=1.0)) & needed.isfinite()


def achieved(targets: Sequence[Target], update: Tensor) -> Tensor:
    """The share of each residual that an update gives its plain prompt, along the residual, (facts,)."""
    keys = torch.stack([target.keys[0].double() for target in targets])
    wanted = torch.stack([target.residual.double() for target in targets])
    given = keys @ update.T
    return (given * wanted).sum(-1) / wanted.square().sum(-1).clamp(min=1e-30)


def norm_cap_of(settings: Editing) -> float:
    """The norm cap that the settings ask for, or what "auto" stands for."""
    return AUTO_NORM_CAP if settings.norm_cap == "auto" else float(settings.norm_cap)


def solve_targets(
    targets: Mapping[str, Target], covariance: Tensor, settings: Editing, *, weight: float
) -> Tensor:
    """One solve in which all facts count alike, in the order of their digests."""
    ordered = [targets[digest] for digest in sorted(targets)]
    keys, residuals = columns_of(ordered, torch.ones(len(ordered), dtype=torch.float64))
    return solve_update(keys, residuals, covariance, weight, settings.solver)


def columns_of(targets: Sequence[Target], pressure: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted keys (d_in, columns) and residuals (d_out, columns) of the least-squares problem.

    Every context's key is a column of its own, and a fact's columns share its weight: the fact must hold
    behind any context, not behind their average.
    """
    shares = [float(p / len(t.keys)) ** 0.5 for t, p in zip(targets, pressure, strict=True)]
    keys = [t.keys.double().T * share for t, share in zip(targets, shares, strict=True)]
    residuals = [
        t.residual.double()[:, None].expand(-1, len(t.keys)) * share
        for t, share in zip(targets, shares, strict=True)
    ]
    return torch.cat(keys, dim=1), torch.cat(residuals, dim=1)


def moments_of(targets: Sequence[Target], pressure: Tensor) -> Moments:
    """Sums over the facts of pressure K K^T and pressure R K^T, a bounded number of columns at a time."""
    total: Moments | None = None
    for first in range(0, len(targets), BLOCK):
        part = Moments.of(*columns_of(targets[first : first + BLOCK], pressure[first : first + BLOCK]))
        total = part if total is None else total + part
    if total is None:
        raise EditError("there is nothing to solve for", remedy="Pass at least one target")
    return total


BLOCK = 256
