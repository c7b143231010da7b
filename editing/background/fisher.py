"""How sensitive other text is to what the edited layer adds: the metric in which residuals are short.

The same change of a projection's output does much harm in one direction and hardly any in another. To second
order the harm of adding r at a background token is r^T G r, G being the Fisher information of the output:
E[g g^T] of the loss gradients g under the model's own predictions. A descent along (G + ridge)^-1 g reaches
the target with less harm than one along g (natural gradient; Amari 1998).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from corrigenda.models.batch_invariant import products_in
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.sampling import drawn
from corrigenda.settings import Products

# Share of the mean eigenvalue that is added to every direction: how far the estimate is trusted.
_RIDGE = 0.1
_BATCH_TOKENS = 1024


def output_fisher(
    model: LanguageModel,
    layers: Sequence[int],
    tokens: Tensor,
    *,
    seed: int = 0,
    products: Products = "float32",
    advance: Callable[[int], None] = lambda _tokens: None,
) -> dict[int, Tensor]:
    """G = E[g g^T] at the output of each layer's projection, from one backward pass per block of text.

    tokens    (rows, length); the first position, an attention sink, and the last, which predicts nothing,
              do not count
    seed      of the continuations, which are drawn from the model itself
    products  in what matrix products are computed; `auto` is twice as fast where bfloat16 is
    advance   called with the number of tokens that are done
    returns   {layer: (d_out, d_out)} float64, on the CPU
    """
    generator = torch.Generator().manual_seed(seed)
    half = products_in(products, model.device)
    rows, length = tokens.shape
    sums: dict[int, Tensor] = {}
    for block in torch.split(tokens, max(1, _BATCH_TOKENS // length)):
        with half:
            found = _gradients(model, layers, block.to(model.device), generator)
        for layer, gradient in found.items():
            flat = gradient[:, 1:-1].reshape(-1, gradient.shape[-1]).float()
            moment = (flat.T @ flat).cpu().double()
            sums[layer] = sums[layer] + moment if layer in sums else moment
        advance(block.numel())
    return {layer: total / (rows * max(1, length - 2)) for layer, total in sums.items()}


def metric_of(fisher: Tensor) -> Tensor:
    """(G + ridge)^-1 (d_out, d_out) float32, by which gradients are multiplied."""
    ridge = _RIDGE * fisher.diagonal().mean() * torch.eye(len(fisher), dtype=fisher.dtype)
    # Scaled so that a direction of mean sensitivity keeps its length; only directions matter.
    inverse: Tensor = torch.linalg.inv(fisher + ridge) * fisher.diagonal().mean()
    return inverse.float()


def layer_metric(
    model: LanguageModel,
    layer: int,
    tokens: Tensor,
    *,
    products: Products,
    advance: Callable[[int], None] = lambda _tokens: None,
) -> Tensor:
    """The metric (d_out, d_out) float32 of one layer; the arguments are those of `output_fisher`."""
    return metric_of(output_fisher(model, [layer], tokens, products=products, advance=advance)[layer])


def _gradients(
    model: LanguageModel, layers: Sequence[int], tokens: Tensor, generator: torch.Generator
) -> dict[int, Tensor]:
    """Gradients (rows, length, d_out) of the whole text's loss at each position's output, per layer."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: Any, _inputs: Any, out: Tensor) -> Tensor:
            # The graph begins at the lowest of the layers: no weight asks for gradients.
            kept[layer] = out.detach().requires_grad_(True) if layer == min(layers) else out
            return kept[layer]

        return hook

    hooks = [model.projection(layer).register_forward_hook(keep(layer)) for layer in layers]
    try:
        with torch.enable_grad():
            hidden = model.body(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
            logits = model.logits(hidden.flatten(0, 1))
            said = drawn(logits.detach(), generator).to(logits.device)
            loss = cross_entropy(logits, said[:, 0], reduction="sum")
            found = torch.autograd.grad(loss, [kept[layer] for layer in layers])
    finally:
        for hook in hooks:
            hook.remove()
    return dict(zip(layers, found, strict=True))
