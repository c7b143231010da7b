"""The layers above the edited one, run alone on what an edit can change.

Under causal attention nothing before the lookup depends on the edit, and nothing at or below the edited
layer does but the edited output itself. So rows are read once (`models/prefill.py`); afterwards a candidate
residual costs one pass of the suffix columns through the layers above. `finish` is held equal to the full
forward by a test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from corrigenda.models.language_model import LanguageModel
from corrigenda.models.layer_calls import cache_argument, takes_of
from corrigenda.models.lower import adding
from corrigenda.models.plain_rows import PlainRows, finish_plainly
from corrigenda.models.structure import hidden_of

Attention = tuple[Tensor, Tensor]  # keys and values of one layer, each (rows, heads, columns, …)


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Rows that have passed the edited layer once.

    layer      the edited layer
    hidden     (rows, suffix, d)   what leaves it, from the lookup on
    projected  (rows, d_out)       output of its projection at the lookup
    masks      by window of attention: (rows, 1, suffix, before + suffix), additive
    positions  (rows, suffix)      position of each suffix token in its own text
    before     by layer above: attention keys and values of opening and prefix, (rows, heads, before, …)
    extras     by layer above: its keyword arguments, rotary embeddings cut to the suffix
    """

    layer: int
    hidden: Tensor
    projected: Tensor
    masks: Mapping[int | None, Tensor]
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
            masks={kind: torch.cat([part.masks[kind] for part in parts])[rows] for kind in first.masks},
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
            masks={kind: mask[rows] for kind, mask in self.masks.items()},
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


def _joined(pairs: Sequence[Any], rows: Tensor) -> Any:
    if pairs[0] is None:
        return None
    return torch.cat([first for first, _ in pairs])[rows], torch.cat([second for _, second in pairs])[rows]


def _rows_of(extra: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    return {name: pair and tuple(part[rows] for part in pair) for name, pair in extra.items()}


def additive_masks(
    windows: Iterable[int | None], present: Tensor, positions: Tensor, split: int, dtype: torch.dtype
) -> dict[int | None, Tensor]:
    """Causal attention for the columns from `split` on, as numbers to add: eager attention adds its mask.

    windows            of the layers; a token sees so many before it, itself included, None for all
    present            (rows, columns) bool
    positions          (rows, columns) of each token in its own text
    returns            by window (rows, 1, columns from split, columns)
    """
    column = torch.arange(present.shape[1], device=present.device)
    causal = (column[None, :] <= column[split:, None])[None] & present[:, None, :]
    distance = positions[:, split:, None] - positions[:, None, :]
    masks = {}
    for window in set(windows):
        allowed = causal if window is None else causal & (distance < window)
        blocked = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        masks[window] = blocked.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
    return masks


def finish(
    model: LanguageModel, rows: Prefilled | PlainRows, residual: Tensor, higher: Sequence[int] = ()
) -> Tensor:
    """Hidden states after the final norm when the projections' outputs at the lookup gain `residual`.

    residual   (rows, d_out), or (rows, (1 + len(higher)) * d_out): one layer's after the other's
    higher     layers above the edited one whose outputs gain a residual, too, in their order
    returns    (rows, suffix, d); differentiable in `residual`
    """
    shift, *more = torch.split(residual, rows.projected.shape[-1], dim=-1)
    added = dict(zip(higher, more, strict=True))
    if isinstance(rows, PlainRows):
        return finish_plainly(model, rows, {rows.layer: shift} | added)
    if model.family.post_norm is not None:
        # In the residual's precision: without a residual there is no shift, whatever the network's.
        output = rows.projected.to(torch.promote_types(rows.projected.dtype, residual.dtype))
        shift = model.added(rows.layer, output + shift) - model.added(rows.layer, output)
    else:
        shift = shift * model.family.gain
    # The layers above compute in the network's dtype, which may have half of the residual's bits.
    moved = (rows.hidden[:, :1] + shift[:, None]).to(rows.hidden.dtype)
    hidden = torch.cat((moved, rows.hidden[:, 1:]), dim=1)
    cache = _FixedCache(rows.before)
    for upper, extra in rows.extras.items():
        layer = model.layers[upper]
        told = {
            "attention_mask": rows.masks[model.windows[upper]],
            "position_ids": rows.positions,
            cache_argument(layer): cache,
        }
        with adding(model, {upper: added[upper]} if upper in added else {}, column=0):
            hidden = hidden_of(layer(hidden, **takes_of(layer, told), **extra))
    return model.norm(hidden)
