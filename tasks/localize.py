"""The golden layer of a model: remembered under all that it depends on, else found.

An unchanged model with unchanged proxy facts and settings never localizes twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import task

from corrigenda.config import Localization
from corrigenda.editing.layer_scores import LayerScores
from corrigenda.editing.localize import VERSIONS, localize, method_of
from corrigenda.editing.proxy import known_facts, sampled_facts
from corrigenda.editing.trials import trial_of
from corrigenda.facts import ProxyFact, digest_of
from corrigenda.models.loading import LanguageModel
from corrigenda.storage import cache
from corrigenda.storage.intake import Intake
from corrigenda.storage.objects import ObjectStore
from corrigenda.storage.proxy_facts import pool_digest, read_proxy_facts
from corrigenda.tasks.edit import load_base
from corrigenda.tasks.night import Night, open_fleet
from corrigenda.tasks.options import RETRIED
from corrigenda.tasks.register import register

# Fewer known facts than this, and the sample is filled up with facts the model does not know.
ENOUGH = 10


def localize_model(
    store: ObjectStore,
    base: Mapping[str, Any],
    model: LanguageModel,
    settings: Localization,
    *,
    root: Path = Path(),
    fresh: bool = False,
) -> LayerScores:
    """The scores of a base's layers and the pick: from the cache, or found and remembered.

    base    weights_digest and tokenizer_digest of the registered base
    root    the folder that a relative `proxy_facts` is taken from
    fresh   find it again, whatever is remembered
    """
    pool = pool_of(settings, root)
    known = None if fresh else recall(store, base, settings, pool)
    if known is not None:
        return known
    found = find_layer(model, pool, settings)
    if settings.layer is None:
        body = json.dumps(found.to_json(), sort_keys=True).encode()
        cache.remember(store, "layers", key_of(base, settings, pool), body)
    return found


def recall(
    store: ObjectStore, base: Mapping[str, Any], settings: Localization, pool: Sequence[ProxyFact]
) -> LayerScores | None:
    """What was found before for this base, proxy pool and settings; None when nothing was."""
    if settings.layer is not None:
        return None
    body = cache.lookup(store, "layers", key_of(base, settings, pool))
    try:
        return LayerScores.from_json(json.loads(body)) if body is not None else None
    except (ValueError, TypeError, AttributeError):
        return None


def find_layer(model: LanguageModel, pool: Sequence[ProxyFact], settings: Localization) -> LayerScores:
    """Localize on a sample of the pool that the model knows; no cache."""
    if settings.layer is not None:
        return localize(model, (), settings)
    facts = known_facts(model, pool, settings.sample, settings.seed)
    knows = len(facts)
    if knows < min(ENOUGH, settings.sample):
        facts = sampled_facts(facts, pool, settings.sample, settings.seed)
    trial = trial_of(model, facts, seed=settings.seed) if settings.method == "two-stage" else None
    found = localize(model, facts, settings, trial=trial)
    if knows == len(facts):
        return found
    note = f"the model knows {knows} of the proxy facts; {len(facts) - knows} unknown ones fill the sample up"
    return replace(found, warnings=(*found.warnings, note))


def pool_of(settings: Localization, root: Path) -> tuple[ProxyFact, ...]:
    """The user's proxy facts, or the built-in ones."""
    own = settings.proxy_facts
    return read_proxy_facts(root / Path(own).expanduser() if own else None)


def key_of(base: Mapping[str, Any], settings: Localization, pool: Sequence[ProxyFact]) -> str:
    """Everything that can change the pick."""
    return digest_of(
        {
            "weights": base["weights_digest"],
            "tokenizer": base["tokenizer_digest"],
            "facts": pool_digest(pool),
            "settings": settings.model_dump(exclude={"proxy_facts", "layer"}),
            "version": VERSIONS[settings.method],
        }
    )


localize_task = task(name="localize", **RETRIED)(localize_model)


def layers_of(config: Path, name: str, *, method: str | None = None, fresh: bool = False) -> LayerScores:
    """The layers of a fleet's model, for a person who asks; registers its base when that is still to do.

    method   instead of the configured one; a layer fixed by hand is then ignored, too

    Raises NotFoundError for a model that is not in the fleet, UsageError for an unknown method.
    """
    night = Night(open_fleet(config), name, Intake({}, {}))
    settings, root = _with_method(night.settings.localization, method), night.fleet.config.root
    base = register.fn(night)
    pool = pool_of(settings, root)
    known = None if fresh else recall(night.store, base.base, settings, pool)
    if known is not None:
        return known
    model = load_base.fn(night, base)
    return localize_model(night.store, base.base, model, settings, root=root, fresh=fresh)


def _with_method(settings: Localization, method: str | None) -> Localization:
    if method is None:
        return settings
    method_of(method)
    return Localization.model_validate(settings.model_dump() | {"method": method, "layer": None})
