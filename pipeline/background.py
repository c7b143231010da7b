"""What is measured once per base, layer and text before any edit: covariance, metric, contexts, norm cap."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from corrigenda.config import Corpus, Localization
from corrigenda.editing.background import contexts, corpus, covariance, fisher
from corrigenda.editing.targets import norm_cap, packs
from corrigenda.facts import ProxyFact, digest_of
from corrigenda.models import loading
from corrigenda.models.language_model import LanguageModel
from corrigenda.pipeline.night import Night
from corrigenda.pipeline.progress import bar
from corrigenda.pipeline.register import said_of_the_family
from corrigenda.storage.corrections.proxy_facts import pool_digest, read_proxy_facts
from corrigenda.storage.objects import cache
from corrigenda.storage.releases.manifests import Release


@dataclass(frozen=True, slots=True)
class Background:
    """What the edit must leave alone, and the openings it is practised behind.

    covariance   (d_in, d_in) float64, E[k k^T] at the golden layer
    metric       (d_out, d_out) float32, what a short residual is; None for the plain metric
    norm_cap     residuals are at most this share of the hidden norm
    identity     names all that covariance and metric depend on
    contexts     prompt prefixes, the empty one first
    """

    covariance: Tensor
    metric: Tensor | None
    norm_cap: float
    identity: str
    contexts: tuple[str, ...]


def measure_background(night: Night, base: Release, model: LanguageModel, layer: int) -> Background:
    """Contexts, covariance, metric and norm cap of the golden layer, cached or fresh."""
    settings = night.settings.editing
    count = max(settings.contexts, settings.key_contexts)
    asked = [contexts.VERSION, count, settings.context_tokens, settings.seed]
    texts = _cached_json(
        night,
        "contexts",
        [identity(night, base), asked],
        lambda: list(contexts.generate_contexts(model, count, settings.context_tokens, settings.seed)),
    )
    key = digest_of([identity(night, base), corpus_identity(night, night.settings.covariance), layer])
    moments = _covariance(night, base, model, layer, key)
    metric = _metric(night, base, model, layer, key) if settings.metric == "fisher" else None
    cap = _norm_cap(night, base, model, layer, key, metric)
    return Background(moments, metric, cap, key, tuple(texts))


def _covariance(night: Night, base: Release, model: LanguageModel, layer: int, key: str) -> Tensor:
    def compute() -> Tensor:
        tokens = background_text(night, base, model, night.settings.covariance, "background text")
        part = night.workplace / f"covariance-{digest_of([covariance.VERSION, key])[:16]}.part"
        with bar("covariance", tokens.numel()) as advance:
            return covariance.resumable_covariance(model, layer, tokens, part, advance=advance)

    return _cached_tensor(night, "covariance", [covariance.VERSION, key], compute)


def _metric(night: Night, base: Release, model: LanguageModel, layer: int, key: str) -> Tensor:
    count, products = night.settings.editing.metric_tokens, night.settings.editing.products

    def compute() -> Tensor:
        tokens = background_text(night, base, model, night.settings.covariance, "background text")
        some = tokens[: max(1, count // tokens.shape[1])]
        with bar("sensitivity", some.numel()) as advance:
            return fisher.layer_metric(model, layer, some, products=products, advance=advance)

    return _cached_tensor(night, "metric", [fisher.VERSION, key, count, products], compute)


def _norm_cap(
    night: Night, base: Release, model: LanguageModel, layer: int, key: str, metric: Tensor | None
) -> float:
    settings = night.settings.editing
    pool = pool_of(night.settings.localization, night.fleet.config.root)
    asked = [norm_cap.VERSION, key, packs.settings_of_targets(settings), pool_digest(pool)]
    cap: float = _cached_json(
        night, "norm-cap", asked, lambda: norm_cap.proxy_norm_cap(model, layer, pool, settings, metric)
    )
    return cap


def _cached_tensor(night: Night, kind: str, key: Any, compute: Callable[[], Tensor]) -> Tensor:
    digest = digest_of(key)
    body = cache.lookup(night.store, kind, digest)
    if body is None:
        # An inverse comes out column-major, which safetensors refuses.
        body = save_tensors({kind: compute().contiguous()}, {"format": "pt"})
        cache.remember(night.store, kind, digest, body)
    stored: Tensor = load_tensors(body)[kind]
    return stored


def background_text(night: Night, base: Release, model: LanguageModel, text: Corpus, what: str) -> Tensor:
    """Token rows of a corpus, cached or fresh."""
    key = digest_of([corpus.VERSION, identity(night, base), corpus_identity(night, text)])
    body = cache.lookup(night.store, "corpora", key)
    if body is None:
        with bar(what, text.tokens) as advance:
            tokens = corpus.background_tokens(model, text, root=night.fleet.config.root, advance=advance)
        body = save_tensors({"tokens": tokens.to(torch.int32)}, {"format": "pt"})
        cache.remember(night.store, "corpora", key, body)
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
    body = cache.lookup(night.store, kind, digest)
    if body is None:
        body = json.dumps(compute(), ensure_ascii=False).encode()
        cache.remember(night.store, kind, digest, body)
    return json.loads(body)


def pool_of(settings: Localization, root: Path) -> tuple[ProxyFact, ...]:
    """The user's proxy facts, or the built-in ones."""
    own = settings.proxy_facts
    return read_proxy_facts(root / Path(own).expanduser() if own else None)
