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
    """Targets of all requests; only what `cached` lacks is computed, whatever its company.

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


def solve_targets(
    targets: Mapping[str, Target], covariance: Tensor, settings: Editing, *, weight: float
) -> Tensor:
    """The update D (d_out, d_in), float64, for all targets at once.

    Every context's key is a column of its own, and a fact's columns share its weight of one: the fact must
    hold behind any context, not behind their average. (d_in, n x contexts) columns, float64.
    """
    keys, residuals = columns_of([targets[digest] for digest in sorted(targets)], len(covariance))
    return solve_update(keys, residuals, covariance, weight, settings.solver)


def columns_of(targets: Sequence[Target], width: int) -> tuple[Tensor, Tensor]:
    """Weighted keys (d_in, columns) and residuals (d_out, columns) of the least-squares problem."""
    if not targets:
        return torch.zeros(width, 0, dtype=torch.float64), torch.zeros(0, 0, dtype=torch.float64)
    shares = [len(target.keys) ** -0.5 for target in targets]
    keys = torch.cat(
        [target.keys.double().T * share for target, share in zip(targets, shares, strict=True)], dim=1
    )
    residuals = torch.cat(
        [
            target.residual.double()[:, None].expand(-1, len(target.keys)) * share
            for target, share in zip(targets, shares, strict=True)
        ],
        dim=1,
    )
    return keys, residuals
