"""The layers above the edited one, run alone on what an edit can change.

Under causal attention nothing before the lookup depends on the edit, and nothing at or below the edited
layer does but the edited output itself. So rows are read once (`models/prefill.py`); afterwards a candidate
residual costs one pass of the suffix columns through the layers above. `finish` is held equal to the full
forward by a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from corrigenda.models.loading import LanguageModel

Attention = tuple[Tensor, Tensor]  # keys and values of one layer, each (rows, heads, columns, …)


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Rows that have passed the edited layer once.

    layer      the edited layer
    hidden     (rows, suffix, d)   what leaves it, from the lookup on
    projected  (rows, d_out)       output of its projection at the lookup
    mask       (rows, 1, suffix, before + suffix)  additive attention mask
    positions  (rows, suffix)      position of each suffix token in its own text
    before     by layer above: attention keys and values of opening and prefix, (rows, heads, before, …)
    extras     by layer above: its keyword arguments, rotary embeddings cut to the suffix
    """

    layer: int
    hidden: Tensor
    projected: Tensor
    mask: Tensor
    positions: Tensor
    before: Mapping[int, Attention]
    extras: Mapping[int, dict[str, Any]]

    @classmethod
    def joined(cls, parts: Sequence[Prefilled], rows: Tensor) -> Prefilled:
        """These `rows` of all parts, which have one shape, counted from the first part's first."""
        first = parts[0]
        return replace(
            first,
            hidden=torch.cat([part.hidden for part in parts])[rows],
            projected=torch.cat([part.projected for part in parts])[rows],
            mask=torch.cat([part.mask for part in parts])[rows],
            positions=torch.cat([part.positions for part in parts])[rows],
            before={layer: _joined([part.before[layer] for part in parts], rows) for layer in first.before},
            extras={
                layer: {name: _joined([part.extras[layer][name] for part in parts], rows) for name in extra}
                for layer, extra in first.extras.items()
            },
        )

    def select(self, rows: Tensor) -> Prefilled:
        """The same for fewer rows: facts that have converged leave the batch."""
        return replace(
            self,
            hidden=self.hidden[rows],
            projected=self.projected[rows],
            mask=self.mask[rows],
            positions=self.positions[rows],
            before={layer: (k[rows], v[rows]) for layer, (k, v) in self.before.items()},
            extras={layer: _rows_of(extra, rows) for layer, extra in self.extras.items()},
        )


class _FixedCache:
    """What attention asks of a cache: here is the new, give me all. Stores nothing."""

    def __init__(self, before: Mapping[int, Attention]) -> None:
        self.before = before

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> Attention:
        k, v = self.before[layer]
        return torch.cat((k, key), dim=2), torch.cat((v, value), dim=2)


def cut_rotary(rotary: tuple[Tensor, Tensor] | None, columns: slice, rows: int) -> dict[str, Any]:
    """Rotary embeddings (rows or 1, columns, d) of some columns; none for learned positions."""
    if rotary is None:
        return {}
    cos, sin = (part[:, columns].expand(rows, -1, -1) for part in rotary)
    return {"position_embeddings": (cos, sin)}


def _joined(pairs: Sequence[tuple[Tensor, Tensor]], rows: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([first for first, _ in pairs])[rows], torch.cat([second for _, second in pairs])[rows]


def _rows_of(extra: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    return {name: tuple(part[rows] for part in pair) for name, pair in extra.items()}


def additive_mask(present: Tensor, split: int, dtype: torch.dtype) -> Tensor:
    """Causal attention for the columns from `split` on, as numbers to add: eager attention adds its mask.

    present   (rows, columns) bool
    """
    column = torch.arange(present.shape[1], device=present.device)
    causal = column[None, :] <= column[split:, None]
    allowed = causal[None] & present[:, None, :]
    blocked = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return blocked.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def finish(model: LanguageModel, rows: Prefilled, residual: Tensor) -> Tensor:
    """Hidden states after the final norm when the projection's output at the lookup gains `residual`.

    residual   (rows, d_out)
    returns    (rows, suffix, d); differentiable in `residual`
    """
    shift = residual
    norm = model.post_norm(rows.layer)
    if norm is not None:
        # Both in the residual's precision: without a residual there is no shift, whatever the network's.
        output = rows.projected.to(torch.promote_types(rows.projected.dtype, residual.dtype))
        shift = norm(output + residual) - norm(output)
    # The layers above compute in the network's dtype, which may have half of the residual's bits.
    moved = (rows.hidden[:, :1] + shift[:, None]).to(rows.hidden.dtype)
    hidden = torch.cat((moved, rows.hidden[:, 1:]), dim=1)
    cache = _FixedCache(rows.before)
    for upper, extra in rows.extras.items():
        out = model.layers[upper](
            hidden,
            attention_mask=rows.mask,
            position_ids=rows.positions,
            past_key_values=cache,
            **extra,
        )
        hidden = out[0] if isinstance(out, tuple) else out
    return model.norm(hidden)
