"""The edit of a night: one solve a layer of the band, over the whole active set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isinf
from typing import Any

from torch import Tensor

from corrigenda.editing.solve import apply
from corrigenda.editing.solve.joint import solve_balanced
from corrigenda.editing.solve.weight import OtherText
from corrigenda.editing.targets import engine, packs
from corrigenda.editing.targets.engine import Targets
from corrigenda.editing.targets.target import Target
from corrigenda.pipeline.background import Background
from corrigenda.pipeline.base import Base
from corrigenda.pipeline.progress import bar, tell
from corrigenda.storage.corrections import ledger
from corrigenda.storage.corrections.ledger import Ledger
from corrigenda.storage.releases import publish
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


def edit(base: Base, background: Background, corrections: Ledger) -> Edit:
    """One closed-form solve a layer of the band over the whole active set, from the pristine base.

    Requests that this model cannot take are marked rejected in the returned ledger.
    """
    cached = cached_targets(base, background) if corrections.active else {}
    found = targets(base, background, corrections, cached)
    marked = _refused(corrections, {d: str(fault) for d, fault in found.refused.items()})
    settings = base.settings.editing
    band = background.band
    chosen = settings.model_dump() | {"norm_cap": background.norm_cap, "layers": list(band.layers)}
    tensors: dict[int, RawTensor] = {}
    if lost := cannot_say(found, marked):
        tell(f"{base.night.name}: short: the model cannot say it: {', '.join(lost)}")
        chosen |= {"cannot_say": lost}
    if found.known:
        solved = solve_balanced(found.known, other_text(base, background), settings)
        each = zip(band.layers, solved.updates, strict=True)
        tensors = {layer: _rounded(base, layer, update) for layer, update in each}
        chosen |= {
            "covariance_weight": solved.weight,
            "rounds": solved.rounds,
            "short": solved.short,
            "change": solved.change,
        }
    computed = len(found.fresh)
    return Edit(background.layer, tensors, marked, computed, len(found.known) - computed, chosen)


def cannot_say(found: Targets, corrections: Ledger) -> list[str]:
    """Ids of the corrections that not even their whole residuals make the model say: no solve can."""
    lost = {
        request.digest
        for digest, group in found.groups.items()
        if isinf(found.known[digest].needed)
        for request in group.requests
    }
    return sorted(c.correction_id for c in corrections.active if c.request.digest in lost)


def other_text(base: Base, background: Background) -> list[OtherText]:
    """What other text asks of the pristine maps, by layer of the band."""
    band = background.band
    layers = zip(band.layers, background.covariances, band.scales, strict=True)
    return [OtherText.of(base.model.linear_map(layer), moments, scale) for layer, moments, scale in layers]


def targets(base: Base, background: Background, corrections: Ledger, cached: Mapping[str, Target]) -> Targets:
    """Targets of the whole active set; what `cached` lacks is computed, and kept in the store."""
    requests = {c.request.digest: c.request for c in corrections.active}
    with bar("targets", len(requests)) as advance:
        found = engine.find_targets(
            base.model,
            background.band,
            list(requests.values()),
            background.contexts,
            base.settings.editing.targets,
            norm_cap=background.norm_cap,
            cached=cached,
            metric=background.metric,
            advance=advance,
        )
    if found.fresh:
        scope = _scope(base, background)
        base.cache.remember_pack("edits", scope, packs.pack(found.fresh))
    return found


def cached_targets(base: Base, background: Background) -> dict[str, Target]:
    """All targets that any night has computed of this base, band and settings, by group digest."""
    scope = _scope(base, background)
    return packs.unpack(base.cache.lookup_packs("edits", scope))


def _scope(base: Base, background: Background) -> str:
    asked = base.settings.editing.targets, background.norm_cap, background.identity
    return packs.scope(base.identity, background.band, background.contexts, *asked)


def _refused(corrections: Ledger, refused: dict[str, str]) -> Ledger:
    for correction in corrections.active:
        if (why := refused.get(correction.request.digest)) is not None:
            corrections = ledger.reject(
                corrections, [correction.correction_id], "model_cannot_take_it", {"detail": why}
            )
    return corrections


def _rounded(base: Base, layer: int, update: Tensor) -> RawTensor:
    """The stored weight plus the update, in the base's own dtype."""
    raw = publish.read_tensor(base.store, base.release, base.model.weight_name(layer))
    stored = apply.tensor_of(raw.data, raw.dtype, raw.shape)
    new = apply.edited(stored, update, stored_transposed=base.model.family.stored_transposed)
    return RawTensor(raw.dtype, raw.shape, apply.bytes_of(new))
