"""The heavy part of a night: load the base, edit its golden layer."""

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
from corrigenda.storage.objects import cache
from corrigenda.storage.releases import publish
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.safetensors import RawTensor


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
    """One closed-form solve at `layer` over the whole active set, from the pristine base.

    Requests that this model cannot take are marked rejected in the returned ledger.
    """
    cached = cached_targets(night, base, layer, background) if corrections.active else {}
    found = targets(night, base, model, layer, background, corrections, cached)
    marked = _refused(corrections, {d: str(fault) for d, fault in found.refused.items()})
    settings = night.settings.editing
    chosen = settings.model_dump() | {"norm_cap": background.norm_cap}
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
            norm_cap=background.norm_cap,
            cached=cached,
            metric=background.metric,
            advance=advance,
        )
    if found.fresh:
        scope = _scope(night, base, layer, background)
        cache.remember_pack(night.store, "edits", scope, packs.pack(found.fresh))
    return found


def cached_targets(night: Night, base: Release, layer: int, background: Background) -> dict[str, Target]:
    """All targets that any night has computed of this base, layer and settings, by group digest."""
    scope = _scope(night, base, layer, background)
    return packs.unpack(cache.lookup_packs(night.store, "edits", scope))


def _scope(night: Night, base: Release, layer: int, background: Background) -> str:
    settings, cap = night.settings.editing, background.norm_cap
    known = identity(night, base)
    return packs.scope(known, layer, background.contexts, settings, cap, background.identity)


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
