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

from corrigenda.config import Editing
from corrigenda.editing.background import fisher
from corrigenda.editing.background.contexts import contexts_digest
from corrigenda.editing.targets import optimise
from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.target import Target
from corrigenda.facts import digest_of

# Settings of the solve, which do not touch keys and residuals.
_OF_THE_SOLVE = ("solver", "covariance_weight", "balance_rounds", "most_change")


def scope(
    base: Mapping[str, Any],
    band: Band,
    contexts: tuple[str, ...],
    settings: Editing,
    norm_cap: float,
    background: str,
) -> str:
    """The digest of everything, besides the request, that a target depends on.

    base         weights_digest and tokenizer_digest of the registered base
    norm_cap     what the settings' own came to
    background   names the text in whose metric residuals are short
    """
    asked = settings_of_targets(settings) | {"radius": norm_cap}
    return digest_of(
        [
            "targets",
            optimise.VERSION,
            base["weights_digest"],
            base["tokenizer_digest"],
            [band.layers, band.scales],
            contexts_digest(contexts),
            fisher.VERSION,
            background if settings.metric == "fisher" else None,
            asked,
        ]
    )


def settings_of_targets(settings: Editing) -> dict[str, Any]:
    """The settings that can change a target."""
    return settings.model_dump(exclude=set(_OF_THE_SOLVE))


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
