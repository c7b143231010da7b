"""How long a model's residuals may be at a layer: a multiple of what proxy facts take there.

A layer has room for a bounded sum of changes. A residual that is held short and practised to the end serves
a fact better, for the same harm, than a long one that a heavy covariance weight shrinks afterwards
(docs/log). How short is the model's affair, and the layer's: hidden states differ in scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from torch import Tensor

from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.groups import Group
from corrigenda.editing.targets.optimise import natural_lengths, rows_of, takes
from corrigenda.editing.targets.scale import FREE
from corrigenda.facts import EditRequest, ProxyFact
from corrigenda.models.encoding import TokenRow
from corrigenda.models.language_model import LanguageModel
from corrigenda.settings import TargetSettings

# Of the median natural length; chosen on CounterFact's tuning half (docs/log).
MULTIPLE = 1.2
# Proxy facts that are measured.
SAMPLE = 30
# No ball is narrower, whatever the proxy facts are like; over the root of the band's width.
LEAST = 0.1


def proxy_norm_cap(
    model: LanguageModel,
    band: Band,
    pool: Sequence[ProxyFact],
    settings: TargetSettings,
    metric: Tensor | None,
) -> float:
    """What "auto" stands for as norm cap: MULTIPLE of the median length of residuals in the pool's sample.

    Lengths are those at which the plain prompts alone are answered, in shares of `room.scale_of`. A number
    in the settings is taken as it is. Where a norm stands behind the projection residuals have no length of
    their own, and no cap holds.
    """
    if settings.norm_cap != "auto":
        return float(settings.norm_cap)
    if model.family.post_norm is not None:
        return FREE
    groups = proxy_groups(model, pool, settings)
    lengths = natural_lengths(model, band, groups, settings, metric)
    needed = lengths[lengths > 0]  # the others are said as it is
    least = LEAST / band.width**0.5
    return max(least, round(MULTIPLE * float(needed.median()), 3)) if len(needed) else FREE


def proxy_rows(model: LanguageModel, pool: Sequence[ProxyFact], settings: TargetSettings) -> list[TokenRow]:
    """The plain prompts of the pool's sample."""
    return [rows_of(model, group, ("",)).rows[0] for group in proxy_groups(model, pool, settings)]


def proxy_groups(model: LanguageModel, pool: Sequence[ProxyFact], settings: TargetSettings) -> list[Group]:
    """A seeded sample of the pool, as requests that the model can take."""
    some = Random(settings.seed).sample(list(pool), min(SAMPLE, len(pool)))
    requests = [EditRequest(fact.subject, fact.prompt, fact.target_new) for fact in some]
    return [Group((request,)) for request in requests if takes(model, request, ("",)) is None]
