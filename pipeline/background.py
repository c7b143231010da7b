"""What is measured once per base, band and text before any edit: covariances, metric, contexts, norm cap."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from corrigenda.editing import versions
from corrigenda.editing.background import contexts, covariance, fisher
from corrigenda.editing.solve import scales
from corrigenda.editing.targets import norm_cap
from corrigenda.editing.targets.band import Band, layers_around
from corrigenda.facts import ProxyFact, digest_of
from corrigenda.models.language_model import LanguageModel
from corrigenda.pipeline.base import Base, corpus_identity
from corrigenda.pipeline.progress import bar
from corrigenda.settings import Editing, Localization, NormalisedDescent
from corrigenda.storage.corrections.proxy_facts import pool_digest, read_proxy_facts
from corrigenda.stored import value_of


@dataclass(frozen=True, slots=True)
class Background:
    """What the edit must leave alone, and the openings it is practised behind.

    layer        the golden one
    band         the layers that are edited, around it
    covariances  by layer of the band (d_in, d_in) float64, E[k k^T]
    metric       (width, d_out, d_out) float32, what a short residual is; None for the plain metric
    norm_cap     residuals are at most this share of the hidden norm
    identity     names all that covariances and metric depend on
    contexts     prompt prefixes, the empty one first
    """

    layer: int
    band: Band
    covariances: tuple[Tensor, ...]
    metric: Tensor | None
    norm_cap: float
    identity: str
    contexts: tuple[str, ...]


def measure_background(base: Base, layer: int) -> Background:
    """The band around the golden layer, its contexts, covariances, metric and norm cap, cached or fresh."""
    editing, model = base.settings.editing, base.model
    settings = editing.targets
    count = max(settings.contexts, settings.key_contexts)
    asked = [versions.CONTEXTS, count, settings.context_tokens, settings.seed]
    texts = _cached_json(
        base,
        "contexts",
        [base.identity, asked],
        lambda: list(contexts.generate_contexts(model, count, settings.context_tokens, settings.seed)),
    )
    layers = layers_of_band(model, layer, editing)
    text = digest_of([base.identity, corpus_identity(base.night, base.settings.covariance)])
    covariances = _covariances(base, layers, text)
    measured = settings.measured
    fishers = _fishers(base, layers, text, measured) if measured else {}
    metric = torch.stack([fisher.metric_of(fishers[own]) for own in layers]) if fishers else None
    band, cap = _measured_band(base, layers, text, covariances, fishers, metric)
    key = digest_of([text, layers])
    return Background(layer, band, tuple(covariances[own] for own in layers), metric, cap, key, tuple(texts))


def layers_of_band(model: LanguageModel, golden: int, settings: Editing) -> tuple[int, ...]:
    """The layers that are edited; one alone where a norm stands behind the projection."""
    width = 1 if model.family.post_norm is not None else settings.band
    return layers_around(golden, width, model.n_layers)


def _covariances(base: Base, layers: Sequence[int], text: str) -> dict[int, Tensor]:
    def compute(missing: Sequence[int]) -> dict[int, Tensor]:
        tokens = base.text(base.settings.covariance, "background text")
        part = (
            base.night.workplace / f"covariance-{digest_of([versions.COVARIANCE, text, missing])[:16]}.part"
        )
        with bar("covariance", tokens.numel()) as advance:
            return covariance.resumable_covariance(base.model, missing, tokens, part, advance=advance)

    return _cached_by_layer(base, "covariance", [versions.COVARIANCE, text], layers, compute)


def _fishers(base: Base, layers: Sequence[int], text: str, measured: NormalisedDescent) -> dict[int, Tensor]:
    count, products = measured.metric_tokens, base.settings.editing.targets.products

    def compute(missing: Sequence[int]) -> dict[int, Tensor]:
        tokens = base.text(base.settings.covariance, "background text")
        some = tokens[: max(1, count // tokens.shape[1])]
        with bar("sensitivity", some.numel()) as advance:
            return fisher.output_fisher(base.model, missing, some, products=products, advance=advance)

    return _cached_by_layer(base, "fisher", [versions.FISHER, text, count, products], layers, compute)


def _measured_band(
    base: Base,
    layers: Sequence[int],
    text: str,
    covariances: Mapping[int, Tensor],
    fishers: Mapping[int, Tensor],
    metric: Tensor | None,
) -> tuple[Band, float]:
    """The band with its scales, and how long residuals may be in them."""
    settings, model = base.settings.editing.targets, base.model
    pool = pool_of(base.settings.localization, base.night.fleet.config.root)

    def compute() -> dict[str, Any]:
        laid = scales.laid(model, layers, covariances, fishers, norm_cap.proxy_rows(model, pool, settings))
        cap = norm_cap.proxy_norm_cap(model, laid, pool, settings, metric)
        return {"scales": laid.scales, "norm_cap": cap}

    made_by = [versions.SCALES, versions.NORM_CAP, versions.FISHER]
    asked = [made_by, text, layers, settings.model_dump(), pool_digest(pool)]
    found = _cached_json(base, "band", asked, compute)
    return Band(tuple(layers), tuple(found["scales"])), found["norm_cap"]


def _cached_by_layer(
    base: Base,
    kind: str,
    key: list[Any],
    layers: Sequence[int],
    compute: Callable[[Sequence[int]], Mapping[int, Tensor]],
) -> dict[int, Tensor]:
    """A matrix a layer, each cached by itself; those that are missing are computed in one go."""
    digests = {layer: digest_of([*key, layer]) for layer in layers}
    bodies = {layer: base.cache.lookup(kind, digest) for layer, digest in digests.items()}
    known = {layer: load_tensors(body)[kind] for layer, body in bodies.items() if body is not None}
    missing = [layer for layer in layers if layer not in known]
    for layer, found in compute(missing).items() if missing else ():
        body = save_tensors({kind: found.contiguous()}, {"format": "pt"})
        base.cache.remember(kind, digests[layer], body)
        known[layer] = found
    return known


def _cached_json(base: Base, kind: str, key: Any, compute: Callable[[], Any]) -> Any:
    digest = digest_of(key)
    body = base.cache.lookup(kind, digest)
    if body is None:
        body = json.dumps(compute(), ensure_ascii=False).encode()
        base.cache.remember(kind, digest, body)
    return value_of(body)


def pool_of(settings: Localization, root: Path) -> tuple[ProxyFact, ...]:
    """The user's proxy facts, or the built-in ones."""
    own = settings.proxy_facts
    return read_proxy_facts(root / Path(own).expanduser() if own else None)
