"""The layers above the edited one, run alone: prefill once, then only what an edit can change.

Under causal attention nothing before the lookup depends on the edit, and nothing at or below the edited
layer does but the edited output itself. So one pass gives the hidden states that leave the edited layer and,
above it, the prefixes' keys and values; afterwards a candidate residual costs one pass of the suffix columns
through the layers above. `finish` is held equal to the full forward by a test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from corrigenda.models.loading import LanguageModel
from corrigenda.models.lower import run_up_to
from corrigenda.models.openings import WIDTH_STEP, Openings
from corrigenda.models.prompts import Aligned
from corrigenda.models.steady import in_this_thread

Attention = tuple[Tensor, Tensor]  # keys and values of one layer, each (rows, heads, columns, …)


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Rows that have passed the edited layer once.

    layer      the edited layer
    hidden     (rows, suffix, d)   what leaves it, from the lookup on
    projected  (rows, d_out)       output of its projection at the lookup
    mask       (rows, 1, suffix, before + suffix)  additive attention mask
    positions  (rows, suffix)      position of each suffix token in its own text
    before     by layer above: attention keys and values of opening and prefix
    extras     by layer above: its keyword arguments, rotary embeddings cut to the suffix
    """

    layer: int
    hidden: Tensor
    projected: Tensor
    mask: Tensor
    positions: Tensor
    before: Mapping[int, Attention]
    extras: Mapping[int, dict[str, Any]]

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


@dataclass(frozen=True, slots=True)
class _Prefixes:
    """The columns before the lookup, behind their openings; as a cache it keeps both for `finish`.

    columns   of the prefixes; one at least, lest the layers have nothing to do
    padding   columns between openings and prefixes that nobody sees: they make the width a whole number of
              vector registers, for a product's last bits depend on where in memory its rows begin
    """

    rows: Aligned
    openings: Openings | None
    numbers: Tensor
    columns: int
    padding: int
    found: dict[int, Attention] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Aligned, openings: Openings | None, numbers: Tensor) -> _Prefixes:
        columns = max(rows.split, 1)
        return cls(rows, openings, numbers, columns, -columns % WIDTH_STEP)

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> Attention:
        """What attention asks of a cache."""
        whole, kept = [], []
        for i, new in enumerate((key, value)):
            begun = self.openings.attention[layer][i][self.numbers] if self.openings else new[:, :, :0]
            unseen = new.new_zeros(*new.shape[:2], self.padding, new.shape[3])
            whole.append(torch.cat((begun, unseen, new), dim=2))
            kept.append(torch.cat((begun, new[:, :, : self.rows.split]), dim=2))
        self.found[layer] = kept[0], kept[1]
        return whole[0], whole[1]

    def alone(self, layer: int, begun: Tensor, extras: dict[int, dict[str, Any]]) -> Callable[..., Any]:
        """A hook that lets `layer` see the prefixes only, and keeps in `extras` what the suffixes need.

        begun   (rows, width) bool: the openings' columns that are not padding
        """
        split, columns = self.rows.split, self.columns
        unseen = begun.new_zeros(len(begun), self.padding)
        present = torch.cat((begun, unseen, self.rows.present[:, :columns]), dim=1)

        def hook(_module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
            rotary = kwargs.get("position_embeddings")
            extras[layer] = _cut(rotary, slice(split, None), len(begun))
            told = {
                "attention_mask": _additive_mask(present, present.shape[1] - columns, args[0].dtype),
                "position_ids": self.rows.positions[:, :columns],
                "past_key_values": self,
                **_cut(rotary, slice(0, columns), len(begun)),
            }
            return (args[0][:, :columns],), told

        return in_this_thread(hook)


@torch.no_grad()
def prefill(model: LanguageModel, layer: int, rows: Aligned, openings: Openings | None = None) -> Prefilled:
    """Run the rows through the edited layer, and their prefixes through those above it.

    openings   those of the rows; they are not read again
    """
    numbers = rows.tokens.new_zeros(len(rows.tokens)) if openings is None else openings.numbers(rows.openings)
    begun = rows.present[:, :0] if openings is None else openings.present[numbers]
    present = torch.cat((begun, rows.present), dim=1)
    prefixes = _Prefixes.of(rows, openings, numbers)
    seen: dict[str, Tensor] = {}
    extras: dict[int, dict[str, Any]] = {}

    def keep_projected(_module: Any, _inputs: Any, out: Tensor) -> None:
        seen["projected"] = out[:, rows.split]

    def keep_hidden(_module: Any, _inputs: Any, out: Any) -> None:
        seen["hidden"] = (out[0] if isinstance(out, tuple) else out)[:, rows.split :]

    hooks = [
        model.projection(layer).register_forward_hook(in_this_thread(keep_projected)),
        model.layers[layer].register_forward_hook(in_this_thread(keep_hidden)),
    ]
    for upper in range(layer + 1, model.n_layers):
        hook = prefixes.alone(upper, begun, extras)
        hooks.append(model.layers[upper].register_forward_pre_hook(hook, with_kwargs=True))
    try:
        run_up_to(
            model,
            model.final_norm,
            input_ids=rows.tokens,
            attention_mask=present.long(),
            position_ids=rows.positions,
            past_key_values=DynamicCache() if openings is None else openings.cache(numbers, layer + 1),
            use_cache=True,
        )
    finally:
        for handle in hooks:
            handle.remove()
    return Prefilled(
        layer=layer,
        hidden=seen["hidden"],
        projected=seen["projected"],
        mask=_additive_mask(present, begun.shape[1] + rows.split, seen["hidden"].dtype),
        positions=rows.positions[:, rows.split :],
        before=prefixes.found,
        extras=extras,
    )


def _cut(rotary: tuple[Tensor, Tensor] | None, columns: slice, rows: int) -> dict[str, Any]:
    """Rotary embeddings (rows or 1, columns, d) of some columns; none for learned positions."""
    if rotary is None:
        return {}
    cos, sin = (part[:, columns].expand(rows, -1, -1) for part in rotary)
    return {"position_embeddings": (cos, sin)}


def _rows_of(extra: dict[str, Any], rows: Tensor) -> dict[str, Any]:
    return {name: tuple(part[rows] for part in pair) for name, pair in extra.items()}


def _additive_mask(present: Tensor, split: int, dtype: torch.dtype) -> Tensor:
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
        shift = norm(rows.projected + residual) - norm(rows.projected)
    hidden = torch.cat((rows.hidden[:, :1] + shift[:, None], rows.hidden[:, 1:]), dim=1)
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
