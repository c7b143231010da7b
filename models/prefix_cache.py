"""Beginnings that many texts share, read once.

Every fact is practised and looked up behind the same few contexts. Under causal attention a context's keys
and values are its own affair: one pass over the contexts serves all the prompts that stand behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from corrigenda.models.language_model import LanguageModel

# What the width of attention is padded to, on the left: a whole vector register. With 8, a fifth of the
# targets depended on their company in the last bits.
WIDTH_STEP = 16


@dataclass(frozen=True, slots=True, eq=False)
class Openings:
    """Attention's keys and values of some beginnings.

    places      the number of each beginning, by its tokens; the empty one is 0
    present     (openings, width) bool: not padding
    attention   per layer: keys and values, each (openings, heads, width, …)
    """

    places: dict[tuple[int, ...], int]
    present: Tensor
    attention: list[tuple[Tensor, Tensor]]

    @property
    def width(self) -> int:
        return self.present.shape[1]

    def numbers(self, wanted: Sequence[tuple[int, ...]]) -> Tensor:
        """The numbers (rows,) of beginnings that were read."""
        return torch.tensor([self.places[tokens] for tokens in wanted], device=self.present.device)

    def cache(self, numbers: Tensor, layers: int) -> DynamicCache:
        """A cache (rows, …) that the first `layers` layers can read on from."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self.attention[:layers]):
            cache.update(keys[numbers], values[numbers], layer)
        return cache


@torch.no_grad()
def read_openings(model: LanguageModel, beginnings: Iterable[tuple[int, ...]]) -> Openings | None:
    """Read each beginning once; None when all of them are empty, and where networks are read plainly."""
    if model.plain:
        return None
    places: dict[tuple[int, ...], int] = {(): 0}
    for tokens in beginnings:
        places.setdefault(tokens, len(places))
    if len(places) == 1:
        return None
    width = -(-max(map(len, places)) // WIDTH_STEP) * WIDTH_STEP
    ids = torch.zeros((len(places), width), dtype=torch.long)
    present = torch.zeros((len(places), width), dtype=torch.bool)
    for tokens, row in places.items():
        if tokens:
            ids[row, -len(tokens) :] = torch.tensor(tokens)
            present[row, -len(tokens) :] = True
    ids, present = ids.to(model.device), present.to(model.device)
    cache = DynamicCache()
    # The empty one is read as one column of padding, lest its attention have nothing to look at.
    looked_at = present.long()
    looked_at[0, -1] = 1
    model.body(
        input_ids=ids,
        attention_mask=looked_at,
        position_ids=(present.long().cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    )
    return Openings(places, present, [(layer.keys, layer.values) for layer in cache.layers])
