"""One night's edit of one layer: targets of what is new, then one closed-form solve over everything.

A pure function of the base, the active requests and the settings. Order of arrival does not matter: the
solve takes requests in the order of their digests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corrigenda.config import Editing
from corrigenda.editing.solve import solve_update
from corrigenda.editing.targets import Target, optimise_targets, rows_of
from corrigenda.errors import EditError
from corrigenda.facts import EditRequest
from corrigenda.models.loading import LanguageModel


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of a night.

    known     request digest -> target, of all requests that can be edited
    fresh     those of them that were computed now
    refused   request digest -> why this model cannot take the request
    """

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
    advance: Callable[[int], None] = lambda _done: None,
) -> Targets:
    """Targets of all requests; only what `cached` lacks is computed.

    advance   called with the number of requests that are done
    """
    wanted = {request.digest: request for request in requests}
    new, refused = [], {}
    for digest, request in sorted(wanted.items()):
        if digest in cached:
            continue
        try:
            rows_of(model, request, contexts)
            new.append(request)
        except EditError as fault:
            refused[digest] = fault
    advance(len(wanted) - len(new))
    found = optimise_targets(model, layer, new, contexts, settings, norm_cap=norm_cap, advance=advance)
    fresh = {request.digest: target for request, target in zip(new, found, strict=True)}
    known = {d: cached[d] if d in cached else fresh[d] for d in sorted(wanted) if d not in refused}
    return Targets(known, fresh, refused)


@dataclass(frozen=True, slots=True)
class Solved:
    """The joint solve of a night.

    update   (d_out, d_in) float64
    rounds   solves after the first: each presses the facts harder that were short
    short    facts that are short all the same
    """

    update: Tensor
    rounds: int
    short: int


def solve_balanced(
    targets: Mapping[str, Target],
    covariance: Tensor,
    settings: Editing,
    *,
    weight: float,
    short: Callable[[Tensor], Tensor],
) -> Solved:
    """The gentlest joint update under which the facts are said.

    One weight for all facts is too much for most and too little for some. So all facts begin light
    (`weight` background keys each), and those that an update leaves short count PRESS times as much in the
    next solve: D = R W K^T (weight C + K W K^T)^-1. Facts are taken in the order of their digests and all
    weights change at once, so that the result is a function of the set.

    short   tells of an update which facts (facts,) bool, in the order of their digests, it leaves short
    """
    ordered = [targets[digest] for digest in sorted(targets)]
    pressure = torch.ones(len(ordered), dtype=torch.float64)
    update = solve_targets(targets, covariance, settings, weight=weight)
    for rounds in range(settings.balance_rounds):
        lacking = short(update)
        if not bool(lacking.any()):
            return Solved(update, rounds, 0)
        pressure = torch.where(lacking, pressure * PRESS, pressure)
        update = solve_weighted(ordered, pressure, covariance, settings, weight)
    return Solved(update, settings.balance_rounds, int(short(update).sum()))


PRESS = 3.0
# What "auto" stands for: where balancing begins, and a ball that few residuals reach (docs/LOG.md).
AUTO_WEIGHT = 1000.0
AUTO_NORM_CAP = 1.5


def strength(settings: Editing) -> tuple[float, float]:
    """Background keys per fact and norm cap: what the settings ask for, or what "auto" stands for."""
    weight = AUTO_WEIGHT if settings.covariance_weight == "auto" else settings.covariance_weight
    cap = AUTO_NORM_CAP if settings.norm_cap == "auto" else settings.norm_cap
    return float(weight), float(cap)


def solve_targets(
    targets: Mapping[str, Target], covariance: Tensor, settings: Editing, *, weight: float
) -> Tensor:
    """One solve in which all facts count alike, in the order of their digests."""
    ordered = [targets[digest] for digest in sorted(targets)]
    return solve_weighted(
        ordered, torch.ones(len(ordered), dtype=torch.float64), covariance, settings, weight
    )


def solve_weighted(
    targets: Sequence[Target], pressure: Tensor, covariance: Tensor, settings: Editing, weight: float
) -> Tensor:
    """The update (d_out, d_in) in which fact i counts `pressure[i]` times.

    Every context's key is a column of its own, and a fact's columns share its weight: the fact must hold
    behind any context, not behind their average.
    """
    keys, residuals = columns_of(targets, pressure)
    return solve_update(keys, residuals, covariance, weight, settings.solver)


def columns_of(targets: Sequence[Target], pressure: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted keys (d_in, columns) and residuals (d_out, columns) of the least-squares problem."""
    shares = [float(p / len(t.keys)) ** 0.5 for t, p in zip(targets, pressure, strict=True)]
    keys = [t.keys.double().T * share for t, share in zip(targets, shares, strict=True)]
    residuals = [
        t.residual.double()[:, None].expand(-1, len(t.keys)) * share
        for t, share in zip(targets, shares, strict=True)
    ]
    return torch.cat(keys, dim=1), torch.cat(residuals, dim=1)
