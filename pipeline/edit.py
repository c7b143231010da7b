"""The heavy part of a night: load the base, edit its golden band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from corrigenda.editing.solve import apply
from corrigenda.editing.solve.joint import solve_balanced
from corrigenda.editing.solve.weight import OtherText
from corrigenda.editing.targets import engine, packs
from corrigenda.editing.targets.engine import Targets
from corrigenda.editing.targets.target import Target
from corrigenda.models import loading
from corrigenda.models.language_model import LanguageModel
from corrigenda.pipeline.background import Background, identity
from corrigenda.pipeline.night import Night
from corrigenda.pipeline.progress import bar
from corrigenda.pipeline.register import asked_of
from corrigenda.storage.corrections import ledger
from corrigenda.storage.corrections.ledger import Ledger
from corrigenda.storage.delivery import pull
from corrigenda.storage.releases import publish
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.safetensors import RawTensor


@dataclass(frozen=True, slots=True)
class Edit:
    """One night's edit. An empty active set leaves the base's own tensors.

    layer     the golden one, around which the band lies
    tensors   {layer: the edited weight as it will be published}; empty for the base's own
    settings  the editor's, with the band, what "auto" came to and how the solve went
    """

    layer: int
    tensors: Mapping[int, RawTensor]
    ledger: Ledger
    computed: int
    cached: int
    settings: dict[str, Any]


def load_base(night: Night, base: Release) -> LanguageModel:
    """The base as the store holds it, verified, on the device that the fleet asks for."""
    place = night.workplace / "base"
    pull.materialise(night.store, base, place, night.blob_cache)
    return loading.load(place, **asked_of(night))


def edit(
    night: Night,
    base: Release,
    model: LanguageModel,
    layer: int,
    background: Background,
    corrections: Ledger,
) -> Edit:
    """One closed-form solve a layer of the band over the whole active set, from the pristine base.

    layer   the golden one
    Requests that this model cannot take are marked rejected in the returned ledger.
    """
    cached = cached_targets(night, base, background) if corrections.active else {}
    found = targets(night, base, model, background, corrections, cached)
    marked = _refused(corrections, {d: str(fault) for d, fault in found.refused.items()})
    settings = night.settings.editing
    band = background.band
    chosen = settings.model_dump() | {"norm_cap": background.norm_cap, "layers": list(band.layers)}
    tensors: dict[int, RawTensor] = {}
    if found.known:
        solved = solve_balanced(found.known, other_text(model, background), settings)
        each = zip(band.layers, solved.updates, strict=True)
        tensors = {layer: _rounded(night, base, model, layer, update) for layer, update in each}
        chosen |= {
            "covariance_weight": solved.weight,
            "rounds": solved.rounds,
            "short": solved.short,
            "change": solved.change,
        }
    return Edit(layer, tensors, marked, len(found.fresh), len(found.known) - len(found.fresh), chosen)


def other_text(model: LanguageModel, background: Background) -> list[OtherText]:
    """What other text asks of the pristine maps, by layer of the band."""
    band = background.band
    layers = zip(band.layers, background.covariances, band.scales, strict=True)
    return [OtherText.of(model.linear_map(layer), moments, scale) for layer, moments, scale in layers]


def targets(
    night: Night,
    base: Release,
    model: LanguageModel,
    background: Background,
    corrections: Ledger,
    cached: Mapping[str, Target],
) -> Targets:
    """Targets of the whole active set; what `cached` lacks is computed, and kept in the store."""
    settings = night.settings.editing.targets
    requests = {c.request.digest: c.request for c in corrections.active}
    with bar("targets", len(requests)) as advance:
        found = engine.find_targets(
            model,
            background.band,
            list(requests.values()),
            background.contexts,
            settings,
            norm_cap=background.norm_cap,
            cached=cached,
            metric=background.metric,
            advance=advance,
        )
    if found.fresh:
        scope = _scope(night, base, background)
        night.cache.remember_pack("edits", scope, packs.pack(found.fresh))
    return found


def cached_targets(night: Night, base: Release, background: Background) -> dict[str, Target]:
    """All targets that any night has computed of this base, band and settings, by group digest."""
    scope = _scope(night, base, background)
    return packs.unpack(night.cache.lookup_packs("edits", scope))


def _scope(night: Night, base: Release, background: Background) -> str:
    settings, cap = night.settings.editing.targets, background.norm_cap
    known = identity(night, base)
    return packs.scope(known, background.band, background.contexts, settings, cap, background.identity)


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
