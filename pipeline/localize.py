"""The golden layer of a model: remembered under all that it depends on, else found.

An unchanged model with unchanged proxy facts and settings never localizes twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from corrigenda.editing.localization.layer_scores import LayerScores
from corrigenda.editing.localization.localize import VERSIONS, Trial, localize, method_of
from corrigenda.editing.localization.proxy import known_facts, sampled_facts
from corrigenda.editing.localization.trials import trial_of
from corrigenda.facts import ProxyFact, digest_of
from corrigenda.models.language_model import LanguageModel
from corrigenda.pipeline.background import pool_of
from corrigenda.pipeline.base import Base, corpus_identity, identity, load_base
from corrigenda.pipeline.night import Night, open_fleet
from corrigenda.pipeline.progress import bar
from corrigenda.pipeline.register import register
from corrigenda.settings import Localization
from corrigenda.storage.corrections.intake import Intake
from corrigenda.storage.corrections.proxy_facts import pool_digest
from corrigenda.storage.releases.manifests import Release
from corrigenda.stored import object_of

# Background text as token rows (rows, length), read or sampled when it is asked for.
Text = Callable[[], Tensor]

# Fewer known facts than this, and the sample is filled up with facts the model does not know.
_ENOUGH = 10


def localize_model(base: Base, settings: Localization | None = None, *, fresh: bool = False) -> LayerScores:
    """The scores of a base's layers and the pick: from the cache, or found and remembered.

    settings   instead of the night's own
    fresh      find it again, whatever is remembered
    """
    night, release = base.night, base.release
    settings = settings or night.settings.localization
    pool = pool_of(settings, night.fleet.config.root)
    known = None if fresh else recall(night, release, settings, pool)
    if known is not None:
        return known
    text = partial(base.text, night.settings.covariance, "background text")
    found = find_layer(base.model, pool, settings, text)
    if settings.layer is None:
        body = json.dumps(found.to_json(), sort_keys=True).encode()
        night.cache.remember("layers", key_of(night, release, settings, pool), body)
    return found


def recall(
    night: Night, release: Release, settings: Localization, pool: Sequence[ProxyFact]
) -> LayerScores | None:
    """What was found before for this base, proxy pool and settings; None when nothing was."""
    if settings.layer is not None:
        return None
    body = night.cache.lookup("layers", key_of(night, release, settings, pool))
    try:
        return LayerScores.from_json(object_of(body)) if body is not None else None
    except (ValueError, TypeError, AttributeError):
        return None


def find_layer(
    model: LanguageModel, pool: Sequence[ProxyFact], settings: Localization, text: Text
) -> LayerScores:
    """Localize on a sample of the pool that the model knows; no cache."""
    if settings.layer is not None:
        return localize(model, (), settings)
    facts = known_facts(model, pool, settings.sample, settings.seed)
    knows = len(facts)
    if knows < min(_ENOUGH, settings.sample):
        facts = sampled_facts(facts, pool, settings.sample, settings.seed)
    with _trial(model, facts, settings, text) as trial:
        found = localize(model, facts, settings, trial=trial)
    if knows == len(facts):
        return found
    note = f"the model knows {knows} of the proxy facts; {len(facts) - knows} unknown ones fill the sample up"
    return replace(found, warnings=(*found.warnings, note))


@contextmanager
def _trial(
    model: LanguageModel, facts: Sequence[ProxyFact], settings: Localization, text: Text
) -> Iterator[Trial | None]:
    """The trial edit that two-stage localization needs, under a bar; no other method pays for it."""
    if settings.method != "two-stage":
        yield None
        return
    trial = trial_of(model, facts, text())
    with bar("trial edits", min(settings.trials, model.n_layers)) as advance:

        def told(layer: int) -> float:
            outcome = trial(layer)
            advance(1)
            return outcome

        yield told


def key_of(night: Night, release: Release, settings: Localization, pool: Sequence[ProxyFact]) -> str:
    """Everything that can change the pick."""
    text = corpus_identity(night, night.settings.covariance) if settings.method == "two-stage" else None
    return digest_of(
        {
            "base": identity(night, release),
            "facts": pool_digest(pool),
            "settings": settings.model_dump(exclude={"proxy_facts", "layer"}),
            "text": text,
            "version": VERSIONS[settings.method],
        }
    )


def layers_of(config: Path, name: str, *, method: str | None = None, fresh: bool = False) -> LayerScores:
    """The layers of a fleet's model, for a person who asks; registers its base when that is still to do.

    method   instead of the configured one; a layer fixed by hand is then ignored, too

    Raises NotFoundError for a model that is not in the fleet, UsageError for an unknown method.
    """
    night = Night(open_fleet(config), name, Intake({}, {}))
    settings = _with_method(night.settings.localization, method)
    release = register(night)
    pool = pool_of(settings, night.fleet.config.root)
    known = None if fresh else recall(night, release, settings, pool)
    return known or localize_model(load_base(night, release), settings, fresh=True)


def _with_method(settings: Localization, method: str | None) -> Localization:
    if method is None:
        return settings
    method_of(method)
    return Localization.model_validate(settings.model_dump() | {"method": method, "layer": None})
