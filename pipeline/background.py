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
from corrigenda.editing.background import contexts, corpus, covariance, fisher
from corrigenda.editing.solve import scales
from corrigenda.editing.targets import norm_cap
from corrigenda.editing.targets.band import Band, layers_around
from corrigenda.facts import ProxyFact, digest_of
from corrigenda.models import loading
from corrigenda.models.language_model import LanguageModel
from corrigenda.pipeline.night import Night
from corrigenda.pipeline.progress import bar
from corrigenda.pipeline.register import said_of_the_family
from corrigenda.settings import Corpus, Editing, Localization, NormalisedDescent
from corrigenda.storage.corrections.proxy_facts import pool_digest, read_proxy_facts
from corrigenda.storage.releases.manifests import Release


@dataclass(frozen=True, slots=True)
class Background:
    """What the edit must leave alone, and the openings it is practised behind.

    band         the layers that are edited
    covariances  by layer of the band (d_in, d_in) float64, E[k k^T]
    metric       (width, d_out, d_out) float32, what a short residual is; None for the plain metric
    norm_cap     residuals are at most this share of the hidden norm
    identity     names all that covariances and metric depend on
    contexts     prompt prefixes, the empty one first
    """

    band: Band
    covariances: tuple[Tensor, ...]
    metric: Tensor | None
    norm_cap: float
    identity: str
    contexts: tuple[str, ...]


def measure_background(night: Night, base: Release, model: LanguageModel, layer: int) -> Background:
    """The band around the golden layer, its contexts, covariances, metric and norm cap, cached or fresh."""
    editing = night.settings.editing
    settings = editing.targets
    count = max(settings.contexts, settings.key_contexts)
    asked = [versions.CONTEXTS, count, settings.context_tokens, settings.seed]
    texts = _cached_json(
        night,
        "contexts",
        [identity(night, base), asked],
        lambda: list(contexts.generate_contexts(model, count, settings.context_tokens, settings.seed)),
    )
    layers = layers_of_band(model, layer, editing)
    text = digest_of([identity(night, base), corpus_identity(night, night.settings.covariance)])
    covariances = _covariances(night, base, model, layers, text)
    measured = settings.measured
    fishers = _fishers(night, base, model, layers, text, measured) if measured else {}
    metric = torch.stack([fisher.metric_of(fishers[own]) for own in layers]) if fishers else None
    band, cap = _measured_band(night, model, layers, text, covariances, fishers, metric)
    key = digest_of([text, layers])
    return Background(band, tuple(covariances[own] for own in layers), metric, cap, key, tuple(texts))


def layers_of_band(model: LanguageModel, golden: int, settings: Editing) -> tuple[int, ...]:
    """The layers that are edited; one alone where a norm stands behind the projection."""
    width = 1 if model.family.post_norm is not None else settings.band
    return layers_around(golden, width, model.n_layers)


def _covariances(
    night: Night, base: Release, model: LanguageModel, layers: Sequence[int], text: str
) -> dict[int, Tensor]:
    def compute(missing: Sequence[int]) -> dict[int, Tensor]:
        tokens = background_text(night, base, model, night.settings.covariance, "background text")
        part = night.workplace / f"covariance-{digest_of([versions.COVARIANCE, text, missing])[:16]}.part"
        with bar("covariance", tokens.numel()) as advance:
            return covariance.resumable_covariance(model, missing, tokens, part, advance=advance)

    return _cached_by_layer(night, "covariance", [versions.COVARIANCE, text], layers, compute)


def _fishers(
    night: Night,
    base: Release,
    model: LanguageModel,
    layers: Sequence[int],
    text: str,
    measured: NormalisedDescent,
) -> dict[int, Tensor]:
    count, products = measured.metric_tokens, night.settings.editing.targets.products

    def compute(missing: Sequence[int]) -> dict[int, Tensor]:
        tokens = background_text(night, base, model, night.settings.covariance, "background text")
        some = tokens[: max(1, count // tokens.shape[1])]
        with bar("sensitivity", some.numel()) as advance:
            return fisher.output_fisher(model, missing, some, products=products, advance=advance)

    return _cached_by_layer(night, "fisher", [versions.FISHER, text, count, products], layers, compute)


def _measured_band(
    night: Night,
    model: LanguageModel,
    layers: Sequence[int],
    text: str,
    covariances: Mapping[int, Tensor],
    fishers: Mapping[int, Tensor],
    metric: Tensor | None,
) -> tuple[Band, float]:
    """The band with its scales, and how long residuals may be in them."""
    settings = night.settings.editing.targets
    pool = pool_of(night.settings.localization, night.fleet.config.root)

    def compute() -> dict[str, Any]:
        laid = scales.laid(model, layers, covariances, fishers, norm_cap.proxy_rows(model, pool, settings))
        cap = norm_cap.proxy_norm_cap(model, laid, pool, settings, metric)
        return {"scales": laid.scales, "norm_cap": cap}

    made_by = [versions.SCALES, versions.NORM_CAP, versions.FISHER]
    asked = [made_by, text, layers, settings.model_dump(), pool_digest(pool)]
    found = _cached_json(night, "band", asked, compute)
    return Band(tuple(layers), tuple(found["scales"])), found["norm_cap"]


def _cached_by_layer(
    night: Night,
    kind: str,
    key: list[Any],
    layers: Sequence[int],
    compute: Callable[[Sequence[int]], Mapping[int, Tensor]],
) -> dict[int, Tensor]:
    """A matrix a layer, each cached by itself; those that are missing are computed in one go."""
    digests = {layer: digest_of([*key, layer]) for layer in layers}
    bodies = {layer: night.cache.lookup(kind, digest) for layer, digest in digests.items()}
    known = {layer: load_tensors(body)[kind] for layer, body in bodies.items() if body is not None}
    missing = [layer for layer in layers if layer not in known]
    for layer, found in compute(missing).items() if missing else ():
        body = save_tensors({kind: found.contiguous()}, {"format": "pt"})
        night.cache.remember(kind, digests[layer], body)
        known[layer] = found
    return known


def background_text(night: Night, base: Release, model: LanguageModel, text: Corpus, what: str) -> Tensor:
    """Token rows of a corpus, cached or fresh."""
    key = digest_of([versions.CORPUS, identity(night, base), corpus_identity(night, text)])
    body = night.cache.lookup("corpora", key)
    if body is None:
        with bar(what, text.tokens) as advance:
            tokens = corpus.background_tokens(model, text, root=night.fleet.config.root, advance=advance)
        body = save_tensors({"tokens": tokens.to(torch.int32)}, {"format": "pt"})
        night.cache.remember("corpora", key, body)
    stored: Tensor = load_tensors(body)["tokens"]
    return stored.long()


def corpus_identity(night: Night, text: Corpus) -> list[Any]:
    """Settings of a corpus and, for a local file, what identifies its content."""
    path = night.fleet.config.root / Path(text.source).expanduser()
    content = digest_of([path.stat().st_size, path.stat().st_mtime_ns]) if path.is_file() else None
    return [text.model_dump(), content]


def identity(night: Night, base: Release) -> dict[str, Any]:
    """What a base is, whatever it is called: the digests of its weights, as they are computed with, and of
    its tokenizer. In another precision than float32, or edited elsewhere, all that is measured is other."""
    weights = base.base["weights_digest"]
    precision = loading.precision(night.settings.device, night.settings.dtype)
    apart = [how for how in (precision, said_of_the_family(night)) if how and how != "float32"]
    named = f"{weights}:{digest_of(apart)[:16]}" if apart else weights
    return {"weights_digest": named, "tokenizer_digest": base.base["tokenizer_digest"]}


def _cached_json(night: Night, kind: str, key: Any, compute: Callable[[], Any]) -> Any:
    digest = digest_of(key)
    body = night.cache.lookup(kind, digest)
    if body is None:
        body = json.dumps(compute(), ensure_ascii=False).encode()
        night.cache.remember(kind, digest, body)
    return json.loads(body)


def pool_of(settings: Localization, root: Path) -> tuple[ProxyFact, ...]:
    """The user's proxy facts, or the built-in ones."""
    own = settings.proxy_facts
    return read_proxy_facts(root / Path(own).expanduser() if own else None)
