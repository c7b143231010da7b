"""The layers above the edited one, run alone: prefill once, then only what an edit can change.

Under causal attention nothing before the lookup depends on the edit, and nothing at or below the edited
layer does but the edited output itself. So one pass over the whole rows gives the prefixes' keys and
values and the hidden states that leave the edited layer; afterwards a candidate residual costs one pass
of the suffix columns through the layers above. `finish` is held equal to the full forward by a test.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from corrigenda.models.loading import LanguageModel
from corrigenda.models.openings import Openings
from corrigenda.models.prompts import Aligned
from corrigenda.models.steady import in_this_thread


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Rows that have passed the edited layer once.

    layer      the edited layer
    hidden     (rows, suffix, d)   what leaves it, from the lookup on
    key        (rows, d_in)        input of its projection at the lookup
    projected  (rows, d_out)       output of its projection at the lookup
    final      (rows, suffix, d)   hidden states after the final norm, without any edit
    mask       (rows, 1, suffix, before + suffix)  additive attention mask
    positions  (rows, suffix)      position of each suffix token in its own text
    before     per layer above: attention keys and values of opening and prefix, each (rows, heads, before, …)
    extras     per layer above: its keyword arguments, rotary embeddings cut to the suffix
    """

    layer: int
    hidden: Tensor
    key: Tensor
    projected: Tensor
    final: Tensor
    mask: Tensor
    positions: Tensor
    before: list[tuple[Tensor, Tensor]]
    extras: list[dict[str, Any]]

    def select(self, rows: Tensor) -> Prefilled:
        """The same for fewer rows: facts that have converged leave the batch."""
        return replace(
            self,
            hidden=self.hidden[rows],
            key=self.key[rows],
            projected=self.projected[rows],
            final=self.final[rows],
            mask=self.mask[rows],
            positions=self.positions[rows],
            before=[(k[rows], v[rows]) for k, v in self.before],
            extras=[_rows_of(extra, rows) for extra in self.extras],
        )


class _FixedCache:
    """What attention asks of a cache: here is the new, give me all. Stores nothing."""

    def __init__(self, before: list[tuple[Tensor, Tensor]], first: int) -> None:
        self.before, self.first = before, first

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        k, v = self.before[layer - self.first]
        return torch.cat((k, key), dim=2), torch.cat((v, value), dim=2)


@torch.no_grad()
def prefill(model: LanguageModel, layer: int, rows: Aligned, openings: Openings | None = None) -> Prefilled:
    """Run the rows once through the whole network and keep what `finish` needs.

    openings   those of the rows; they are not read again
    """
    cache, present = DynamicCache(), rows.present
    if openings is not None:
        numbers = openings.numbers(rows.openings)
        cache = openings.cache(numbers)
        present = torch.cat((openings.present[numbers], present), dim=1)
    split = present.shape[1] - rows.present.shape[1] + rows.split
    seen: dict[str, Any] = {"extras": {}}
    hooks = [
        model.projection(layer).register_forward_hook(
            in_this_thread(
                lambda _m, inputs, out: seen.update(
                    key=inputs[0][:, rows.split], projected=out[:, rows.split]
                )
            )
        ),
        model.layers[layer].register_forward_hook(
            in_this_thread(
                lambda _m, _i, out: seen.update(hidden=(out[0] if isinstance(out, tuple) else out))
            )
        ),
    ]
    for upper in range(layer + 1, model.n_layers):
        hooks.append(
            model.layers[upper].register_forward_pre_hook(
                in_this_thread(_keep(seen, upper)), with_kwargs=True
            )
        )
    try:
        final = model.body(
            input_ids=rows.tokens,
            attention_mask=present.long(),
            position_ids=rows.positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    above = range(layer + 1, model.n_layers)
    return Prefilled(
        layer=layer,
        hidden=seen["hidden"][:, rows.split :],
        key=seen["key"],
        projected=seen["projected"],
        final=final[:, rows.split :],
        mask=_additive_mask(present, split, seen["hidden"].dtype),
        positions=rows.positions[:, rows.split :],
        before=[
            (cache.layers[j].keys[:, :, :split].clone(), cache.layers[j].values[:, :, :split].clone())
            for j in above
        ],
        extras=[_cut(seen["extras"][j], rows.split, len(rows.tokens)) for j in above],
    )


def _keep(seen: dict[str, Any], layer: int) -> Any:
    def hook(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        seen["extras"][layer] = kwargs.get("position_embeddings")

    return hook


def _cut(rotary: tuple[Tensor, Tensor] | None, split: int, rows: int) -> dict[str, Any]:
    """Rotary embeddings (rows or 1, columns, d) of the suffix columns; none for learned positions."""
    if rotary is None:
        return {}
    cos, sin = (part[:, split:].expand(rows, -1, -1) for part in rotary)
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
    cache = _FixedCache(rows.before, rows.layer + 1)
    for upper, extra in enumerate(rows.extras, start=rows.layer + 1):
        out = model.layers[upper](
            hidden,
            attention_mask=rows.mask,
            position_ids=rows.positions,
            past_key_values=cache,
            **extra,
        )
        hidden = out[0] if isinstance(out, tuple) else out
    return model.norm(hidden)
