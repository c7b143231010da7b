"""Targets of one night: those of what is new are computed, all others are cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.groups import Group, grouped
from corrigenda.editing.targets.optimise import optimise_targets, takes
from corrigenda.editing.targets.target import Target
from corrigenda.errors import EditError
from corrigenda.facts import EditRequest
from corrigenda.models.language_model import LanguageModel
from corrigenda.settings import TargetSettings


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
    band: Band,
    requests: Sequence[EditRequest],
    contexts: Sequence[str],
    settings: TargetSettings,
    *,
    norm_cap: float,
    cached: Mapping[str, Target],
    metric: Tensor | None = None,
    advance: Callable[[int], None] = lambda _done: None,
) -> Targets:
    """Targets of all requests; only what `cached` lacks is computed.

    norm_cap  as `norm_cap.proxy_norm_cap` gives it
    metric    (width, d_out, d_out) of the descent, see `descent.Normalised`
    advance   called with the number of groups that are done
    """
    accepted, refused = _sorted_out(model, requests, contexts, cached)
    groups = {group.digest: group for group in grouped(accepted)}
    new = [group for digest, group in groups.items() if digest not in cached]
    advance(len(groups) - len(new))
    found = optimise_targets(
        model, band, new, contexts, settings, norm_cap=norm_cap, metric=metric, advance=advance
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
