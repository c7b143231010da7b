"""The edit cache's packs: targets that were computed once and are kept for ever.

A pack holds the targets of one night's new requests, by request digest; where packs lie is the caller's
affair. Whatever can change a target is in `scope`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from corrigenda.editing import versions
from corrigenda.editing.background.contexts import contexts_digest
from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.target import Target
from corrigenda.facts import digest_of
from corrigenda.settings import TargetSettings


def scope(
    base: Mapping[str, Any],
    band: Band,
    contexts: tuple[str, ...],
    settings: TargetSettings,
    norm_cap: float,
    background: str,
) -> str:
    """The digest of everything, besides the request, that a target depends on.

    base         weights_digest and tokenizer_digest of the registered base
    norm_cap     what the settings' own came to
    background   names the text in whose metric residuals are short
    """
    asked = settings.model_dump() | {"norm_cap": norm_cap}
    return digest_of(
        [
            "targets",
            versions.TARGETS,
            base["weights_digest"],
            base["tokenizer_digest"],
            [band.layers, band.scales],
            contexts_digest(contexts),
            versions.FISHER,
            background if settings.measured else None,
            asked,
        ]
    )


def pack(found: Mapping[str, Target]) -> bytes:
    """Targets by request digest as one safetensors body."""
    parts = {}
    for digest, target in sorted(found.items()):
        parts[f"{digest}.keys"] = target.keys.contiguous()
        parts[f"{digest}.residual"] = target.residual.contiguous()
        reached = [target.loss, target.steps, target.needed]
        parts[f"{digest}.reached"] = torch.tensor(reached, dtype=torch.float64)
    body: bytes = save(parts, {"format": "pt"})
    return body


def unpack(packs: Iterable[bytes]) -> dict[str, Target]:
    """Targets of all packs. A damaged pack is as good as none: its targets are computed again."""
    found: dict[str, Target] = {}
    for body in packs:
        try:
            parts = load(body)
            for digest in {name.split(".")[0] for name in parts}:
                loss, steps, needed = parts[f"{digest}.reached"].tolist()
                keys, residual = parts[f"{digest}.keys"], parts[f"{digest}.residual"]
                found[digest] = Target(keys, residual, loss, int(steps), needed)
        except (SafetensorError, KeyError, ValueError):
            continue
    return found
