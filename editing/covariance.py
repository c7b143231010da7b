"""The second moment of a layer's keys over background text: what an edit must leave alone.

Rows are short and batches bounded, so that it always finishes; the forward pass stops at the last layer
that is asked for. Blocks are summed in float32 and merged in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from corrigenda.errors import EditError
from corrigenda.models.loading import LanguageModel

VERSION = 1


class _PassedLastLayerError(Exception):
    """Raised inside a forward pass when the last layer that matters is done."""


def key_covariance(
    model: LanguageModel,
    layers: Sequence[int],
    tokens: Tensor,
    *,
    batch_tokens: int = 4096,
    advance: Callable[[int], None] = lambda _tokens: None,
) -> dict[int, Tensor]:
    """E[k k^T], not centred, of the projection's inputs at each layer, in one pass over the text.

    tokens    (rows, length)   every position counts but the first, which is an attention sink
    returns   {layer: (d_in, d_in)} float64, on the CPU
    advance   called with the number of tokens that are done

    Raises EditError when there is no row of two tokens.
    """
    rows, length = tokens.shape
    if rows == 0 or length < 2:
        raise EditError(
            "there is no background text", remedy="Give rows of two tokens or more", shape=(rows, length)
        )
    sums: dict[int, Tensor] = {}
    size = max(1, batch_tokens // length)
    for start in range(0, rows, size):
        block = tokens[start : start + size].to(model.device)
        for layer, keys in _keys(model, layers, block).items():
            flat = keys[:, 1:].reshape(-1, keys.shape[-1]).float()
            moment = (flat.T @ flat).double().cpu()
            sums[layer] = sums[layer] + moment if layer in sums else moment
        advance(block.numel())
    return {layer: total / (rows * (length - 1)) for layer, total in sums.items()}


@torch.no_grad()
def _keys(model: LanguageModel, layers: Sequence[int], tokens: Tensor) -> dict[int, Tensor]:
    """Inputs of the projections (rows, length, d_in) of the layers asked for."""
    seen: dict[int, Tensor] = {}

    def tap(layer: int) -> Any:
        def hook(_module: Any, inputs: tuple[Tensor, ...]) -> None:
            seen[layer] = inputs[0]
            if layer == max(layers):
                raise _PassedLastLayerError

        return hook

    hooks = [model.projection(layer).register_forward_pre_hook(tap(layer)) for layer in layers]
    try:
        model.body(input_ids=tokens)
    except _PassedLastLayerError:
        return seen
    finally:
        for hook in hooks:
            hook.remove()
    raise EditError("the layers were not reached", remedy="Check the family's row in models/families.py")
