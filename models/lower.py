"""The layers up to the edited one, run alone: a forward pass that stops where its answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from corrigenda.errors import EditError
from corrigenda.models.loading import LanguageModel
from corrigenda.models.prompts import Row
from corrigenda.models.steady import in_this_thread

# Rows that go through together; bounds the memory.
BATCH = 128


class _PassedLastLayerError(Exception):
    """Raised inside a forward pass when the last layer that matters is done."""


@torch.no_grad()
def projection_inputs(model: LanguageModel, layers: Sequence[int], **inputs: Tensor) -> dict[int, Tensor]:
    """Keys (rows, length, d_in) at every position, per layer; the pass stops at the last of the layers.

    inputs   as the network takes them: input_ids, and what else it needs
    """
    seen: dict[int, Tensor] = {}

    def tap(layer: int) -> Any:
        def hook(_module: Any, given: tuple[Tensor, ...]) -> None:
            seen[layer] = given[0]
            if layer == max(layers):
                raise _PassedLastLayerError

        return in_this_thread(hook)

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
    """Keys (rows, d_in) at each row's lookup; what follows it is not read.

    Rows of one length go together, so that no row's arithmetic depends on its company.
    """
    found: dict[int, Tensor] = {}
    for lookup in sorted({row.lookup for row in rows}):
        same = [i for i, row in enumerate(rows) if row.lookup == lookup]
        for first in range(0, len(same), BATCH):
            some = same[first : first + BATCH]
            tokens = torch.tensor([rows[i].tokens[: lookup + 1] for i in some], device=model.device)
            keys = projection_inputs(model, [layer], input_ids=tokens)[layer][:, -1]
            found.update(zip(some, keys, strict=True))
    return torch.stack([found[i] for i in range(len(rows))])
