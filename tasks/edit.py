"""The heavy part of a night: load the base, measure its background, edit its golden layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from prefect import task
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from corrigenda.config import Corpus
from corrigenda.editing import apply, contexts, corpus, covariance, engine, entries, sensitivity
from corrigenda.editing.balance import OtherText, solve_balanced
from corrigenda.editing.engine import Targets
from corrigenda.editing.targets import Target
from corrigenda.facts import digest_of
from corrigenda.models import loading
from corrigenda.models.loading import LanguageModel
from corrigenda.storage import cache, ledger, publish, pull
from corrigenda.storage.ledger import Ledger
from corrigenda.storage.manifests import Release
from corrigenda.storage.tensors import RawTensor
from corrigenda.tasks.night import Night
from corrigenda.tasks.options import PLAIN, RETRIED
from corrigenda.tasks.progress import bar


@dataclass(frozen=True, slots=True)
class Background:
    """What the edit must leave alone, and the openings it is practised behind.

    covariance   (d_in, d_in) float64, E[k k^T] at the golden layer
    metric       (d_out, d_out) float32, what a short residual is; None for the plain metric
    identity     names all that the two depend on
    contexts     prompt prefixes, the empty one first
    """

    covariance: Tensor
    metric: Tensor | None
    identity: str
    contexts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    """One night's edit. An empty active set leaves the base's own tensor.

    tensor    the edited weight as it will be published; None for the base's own
    settings  the editor's, with what "auto" came to and how the solve went
    """

    layer: int
    tensor: RawTensor | None
    ledger: Ledger
    computed: int
    cached: int
    settings: dict[str, Any]


@task(**RETRIED)
def load_base(night: Night, base: Release) -> LanguageModel:
    """The base as the store holds it, verified, on the device that the fleet asks for."""
    place = night.workplace / "base"
    pull.materialise(night.store, base, place, night.blob_cache)
    return loading.load(place, night.settings.device)


@task(**PLAIN)
def measure_background(night: Night, base: Release, model: LanguageModel, layer: int) -> Background:
    """Contexts, covariance and metric of the golden layer, cached or fresh."""
    settings = night.settings.editing
    count = max(settings.contexts, settings.key_contexts)
    asked = [contexts.VERSION, count, settings.context_tokens, settings.seed]
    texts = _cached_json(
        night,
        "contexts",
        [identity(base), asked],
        lambda: list(contexts.generate_contexts(model, count, settings.context_tokens, settings.seed)),
    )
    key = digest_of([identity(base), corpus_identity(night, night.settings.covariance), layer])
    moments = _covariance(night, base, model, layer, key)
    metric = _metric(night, base, model, layer, key) if settings.metric == "fisher" else None
    return Background(moments, metric, key, tuple(texts))


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
            return sensitivity.layer_metric(model, layer, some, products=products, advance=advance)

    return _cached_tensor(night, "metric", [sensitivity.VERSION, key, count, products], compute)


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
    key = digest_of([corpus.VERSION, identity(base), corpus_identity(night, text)])
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


def identity(base: Release) -> dict[str, Any]:
    """What a base is, whatever it is called: the digests of its weights and of its tokenizer."""
    return {name: base.base[name] for name in ("weights_digest", "tokenizer_digest")}


def _cached_json(night: Night, kind: str, key: Any, compute: Callable[[], Any]) -> Any:
    digest = digest_of(key)
    body = cache.lookup(night.store, kind, digest)
    if body is None:
        body = json.dumps(compute(), ensure_ascii=False).encode()
        cache.remember(night.store, kind, digest, body)
    return json.loads(body)


@task(**PLAIN)
def edit(
    night: Night,
    base: Release,
    model: LanguageModel,
    layer: int,
    background: Background,
    corrections: Ledger,
) -> Edit:
    """One closed-form solve at `layer` over the whole active set, from the pristine base.

    Requests that this model cannot take are marked rejected in the returned ledger.
    """
    cached = cached_targets(night, base, layer, background) if corrections.active else {}
    found = targets(night, base, model, layer, background, corrections, cached)
    marked = _refused(corrections, {d: str(fault) for d, fault in found.refused.items()})
    settings = night.settings.editing
    chosen = settings.model_dump() | {"norm_cap": engine.norm_cap_of(settings)}
    tensor = None
    if found.known:
        other = OtherText.of(model.linear_map(layer), background.covariance)
        solved = solve_balanced(found.known, other, settings)
        tensor = _rounded(night, base, model, layer, solved.update)
        chosen |= {
            "covariance_weight": solved.weight,
            "rounds": solved.rounds,
            "short": solved.short,
            "change": solved.change,
        }
    return Edit(layer, tensor, marked, len(found.fresh), len(found.known) - len(found.fresh), chosen)


def targets(
    night: Night,
    base: Release,
    model: LanguageModel,
    layer: int,
    background: Background,
    corrections: Ledger,
    cached: Mapping[str, Target],
) -> Targets:
    """Targets of the whole active set; what `cached` lacks is computed, and kept in the store."""
    settings = night.settings.editing
    requests = {c.request.digest: c.request for c in corrections.active}
    with bar("targets", len(requests)) as advance:
        found = engine.find_targets(
            model,
            layer,
            list(requests.values()),
            background.contexts,
            settings,
            norm_cap=engine.norm_cap_of(settings),
            cached=cached,
            metric=background.metric,
            advance=advance,
        )
    if found.fresh:
        scope = _scope(night, base, layer, background)
        cache.remember_pack(night.store, "edits", scope, entries.pack(found.fresh))
    return found


def cached_targets(night: Night, base: Release, layer: int, background: Background) -> dict[str, Target]:
    """All targets that any night has computed of this base, layer and settings, by group digest."""
    scope = _scope(night, base, layer, background)
    return entries.unpack(cache.lookup_packs(night.store, "edits", scope))


def _scope(night: Night, base: Release, layer: int, background: Background) -> str:
    settings = night.settings.editing
    cap = engine.norm_cap_of(settings)
    return entries.scope(identity(base), layer, background.contexts, settings, cap, background.identity)


def _refused(corrections: Ledger, refused: dict[str, str]) -> Ledger:
    for correction in corrections.active:
        if (why := refused.get(correction.request.digest)) is not None:
            corrections = ledger.reject(
                corrections, [correction.correction_id], "model_cannot_take_it", {"detail": why}
            )
    return corrections


def _rounded(night: Night, base: Release, model: LanguageModel, layer: int, update: Tensor) -> RawTensor:
    """The stored weight plus the update, in the base's own dtype."""
    raw = publish.read_tensor(night.store, base, model.weight_name(layer))
    stored = apply.tensor_of(raw.data, raw.dtype, raw.shape)
    new = apply.edited(stored, update, stored_transposed=model.family.stored_transposed)
    return RawTensor(raw.dtype, raw.shape, apply.bytes_of(new))
