"""The layers up to the edited one, run alone: a forward pass that stops where its answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from corrigenda.errors import EditError
from corrigenda.models.loading import LanguageModel
from corrigenda.models.prompts import Row, align

# Rows that go through together; bounds the memory.
BATCH = 128


class _PassedLastLayerError(Exception):
    """Raised inside a forward pass when the last layer that matters is done."""


@torch.no_grad()
def projection_inputs(model: LanguageModel, layers: Sequence[int], **inputs: Tensor) -> dict[int, Tensor]:
    """Keys (rows, length, d_in) at every position, per layer; the pass stops at the last of the layers.

    inputs   as the network takes them: input_ids, and attention_mask and position_ids where needed
    """
    seen: dict[int, Tensor] = {}

    def tap(layer: int) -> Any:
        def hook(_module: Any, given: tuple[Tensor, ...]) -> None:
            seen[layer] = given[0]
            if layer == max(layers):
                raise _PassedLastLayerError

        return hook

    hooks = [model.projection(layer).register_forward_pre_hook(tap(layer)) for layer in layers]
    try:
        model.body(**inputs, use_cache=False)
    except _PassedLastLayerError:
        return seen
    finally:
        for hook in hooks:
            hook.remove()
    raise EditError("the layers were not reached", remedy="Check the family's row in models/families.py")


def lookup_keys(model: LanguageModel, layer: int, rows: Sequence[Row]) -> Tensor:
    """Keys (rows, d_in) at each row's lookup. Rows of like length go together; what follows is not read."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].lookup)
    found: dict[int, Tensor] = {}
    for first in range(0, len(order), BATCH):
        some = order[first : first + BATCH]
        cut = [Row(rows[i].tokens[: rows[i].lookup + 1], rows[i].lookup) for i in some]
        aligned = align(cut, device=model.device)
        keys = projection_inputs(
            model,
            [layer],
            input_ids=aligned.tokens,
            attention_mask=aligned.present.long(),
            position_ids=aligned.positions,
        )[layer][:, -1]
        found.update(zip(some, keys, strict=True))
    return torch.stack([found[i] for i in range(len(rows))])
