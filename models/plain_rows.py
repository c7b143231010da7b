"""Rows read plainly: every row whole, through all layers, each time.

The truth that the fast path (`models/prefill.py`, `models/upper.py`) is held against, and the way in which
networks are edited whose attention it cannot follow: biases by distance (ALiBi), windows counted inside the
attention, recurrent layers between those that attend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from corrigenda.models.batch_invariant import in_this_thread
from corrigenda.models.encoding import TokenRow
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.structure import hidden_of


@dataclass(frozen=True, slots=True)
class PlainRows:
    """Rows that have been read once without any residual; the fields are those of `upper.Prefilled`.

    layer       the edited layer
    hidden      (rows, suffix, d)   what leaves it, from the lookup on
    projected   (rows, d_out)       output of its projection at the lookup
    tokens      (rows, columns)     padded on the right
    present     (rows, columns)     int64, 1 on tokens
    lookups     (rows,)
    """

    layer: int
    hidden: Tensor
    projected: Tensor
    tokens: Tensor
    present: Tensor
    lookups: Tensor

    @property
    def suffix(self) -> Tensor:
        """(rows, suffix) columns from the lookup on; beyond a row's end its last column."""
        steps = torch.arange(self.hidden.shape[1], device=self.lookups.device)
        return (self.lookups[:, None] + steps).clamp(max=self.tokens.shape[1] - 1)

    def select(self, rows: Tensor) -> PlainRows:
        """The same for fewer rows."""
        return PlainRows(
            self.layer,
            *(part[rows] for part in (self.hidden, self.projected, self.tokens, self.present, self.lookups)),
        )


@torch.no_grad()
def read_plainly(
    model: LanguageModel, layer: int, rows: Sequence[TokenRow], *, prefix: int = 0, suffix: int = 0
) -> PlainRows:
    """Rows through the whole network, once. prefix, suffix: columns before and from the lookups, at least."""
    prefix = max(prefix, *(row.lookup for row in rows))
    suffix = max(suffix, *(len(row.tokens) - row.lookup for row in rows))
    width = prefix + suffix
    tokens = torch.tensor([[*row.tokens, *[0] * (width - len(row.tokens))] for row in rows])
    present = torch.tensor([[1] * len(row.tokens) + [0] * (width - len(row.tokens)) for row in rows])
    lookups = torch.tensor([row.lookup for row in rows])
    tokens, present, lookups = (part.to(model.device) for part in (tokens, present, lookups))
    empty = torch.empty(len(rows), suffix, 0, device=model.device)
    read = PlainRows(layer, empty, empty[:, 0], tokens, present, lookups)
    kept: dict[str, Tensor] = {}
    at = torch.arange(len(rows), device=model.device)
    hooks = [
        model.projection(layer).register_forward_hook(
            in_this_thread(lambda _m, _g, out: kept.update(projected=out[at, lookups]))
        ),
        model.layers[layer].register_forward_hook(
            in_this_thread(lambda _m, _g, out: kept.update(hidden=hidden_of(out)[at[:, None], read.suffix]))
        ),
    ]
    try:
        model.body(input_ids=tokens, attention_mask=present, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return replace(read, projected=kept["projected"], hidden=kept["hidden"])


def finish_plainly(model: LanguageModel, rows: PlainRows, residuals: dict[int, Tensor]) -> Tensor:
    """Hidden states after the final norm when projections' outputs at the lookup gain residuals.

    residuals   {layer: (rows, d_out)}
    returns     (rows, suffix, d); differentiable in the residuals
    """
    at = torch.arange(len(rows.lookups), device=model.device)
    column = torch.arange(rows.tokens.shape[1], device=model.device)
    here = (column == rows.lookups[:, None])[..., None]

    def gains(residual: Tensor) -> Any:
        def hook(_module: Any, _given: Any, out: Tensor) -> Tensor:
            return torch.where(here, out + residual[:, None].to(out.dtype), out)

        return in_this_thread(hook)

    hooks = [model.projection(layer).register_forward_hook(gains(r)) for layer, r in residuals.items()]
    try:
        states = model.body(input_ids=rows.tokens, attention_mask=rows.present, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    found: Tensor = states.last_hidden_state[at[:, None], rows.suffix]
    return found
