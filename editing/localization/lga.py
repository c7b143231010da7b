"""Layer Gradient Analysis (Datta, Liu, Chhabra 2026, arXiv 2602.20207).

The score of a layer is the sum over proxy facts of <grad loss(query + old answer), grad loss(query + new
answer)>, the gradients being those of the layer's MLP matrices at the unedited weights. A matrix with
inputs x_t and output gradients d_t has the gradient G = sum_t d_t x_t^T, hence

    <G, G'> = sum_{t,t'} (d_t . d'_{t'}) (x_t . x'_{t'})

so one backward pass per text gives all layers, and no parameter gradient is ever built.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from corrigenda.editing.localization.layer_scores import Floats, LayerScores, summarize
from corrigenda.facts import ProxyFact
from corrigenda.models.hooks import Loss, Matrices, Tap, encode, mlp_matrices, tap, text_losses
from corrigenda.models.language_model import LanguageModel, in_float64

VERSION = 1
# Facts per backward pass: two texts each. Larger batches only add memory on these short texts.
_BATCH = 8


@dataclass(frozen=True, slots=True)
class KernelDots:
    """Per layer and fact, summed over the layer's matrices; (layers, facts) float64 each.

    cross   <G_old, G_new>
    old     <G_old, G_old>
    new     <G_new, G_new>
    """

    cross: Floats
    old: Floats
    new: Floats

    @property
    def cosines(self) -> Floats:
        size = np.sqrt(self.old * self.new)
        return np.divide(self.cross, size, out=np.zeros_like(self.cross), where=size > 0)


def lga(
    model: LanguageModel,
    facts: Sequence[ProxyFact],
    old_answers: Sequence[str],
    *,
    loss: Loss = "full",
    matrices: Matrices = "all",
    fences: bool = True,
    seed: int = 0,
) -> LayerScores:
    """Score every layer by Layer Gradient Analysis.

    old_answers   per fact, the old knowledge K: the data set's answer or the model's own
    loss          over all tokens of the text, or over the answer's alone
    matrices      all of a layer's MLP, or its output projection alone
    fences        drop outlying layers (Tukey, kappa 1) before the best is taken
    """
    dots = kernel_dots(model, facts, old_answers, loss=loss, matrices=matrices)
    negative = float((dots.cross < 0).mean())
    warnings = (
        (f"{negative:.0%} of the per-fact dot products are negative: the pick says little",)
        if negative > 0.5
        else ()
    )
    return summarize(
        "lga" if fences else "lga-unfenced",
        VERSION,
        dots.cross,
        fences=fences,
        seed=seed,
        norms=tuple(np.sqrt(dots.old).mean(1).tolist()),
        cosines=tuple(dots.cosines.mean(1).tolist()),
        warnings=warnings,
    )


def kernel_dots(
    model: LanguageModel,
    facts: Sequence[ProxyFact],
    old_answers: Sequence[str],
    *,
    loss: Loss = "full",
    matrices: Matrices = "all",
) -> KernelDots:
    """Gradient dot products of the old and the new text of every fact, at every layer."""
    # Facts of like length share a batch, so that little is spent on padding.
    order = sorted(range(len(facts)), key=lambda i: len(facts[i].text))
    dots = np.empty((3, model.n_layers, len(facts)))
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        dots[:, :, chosen] = _batch_dots(
            model, [facts[i] for i in chosen], [old_answers[i] for i in chosen], loss, matrices
        )
    return KernelDots(*dots)


def _batch_dots(
    model: LanguageModel,
    facts: Sequence[ProxyFact],
    old_answers: Sequence[str],
    loss: Loss,
    matrices: Matrices,
) -> Floats:
    """(3, layers, facts): the batch's old texts stand first, its new texts behind them."""
    prompts = [fact.text for fact in facts] * 2
    texts = encode(model, prompts, [*old_answers, *(fact.target_new for fact in facts)])
    by_layer = [mlp_matrices(model, layer, matrices) for layer in range(model.n_layers)]
    taps = iter(tap(model, texts, [m for modules in by_layer for m in modules], loss))
    layers = [sum(_matrix_dots(next(taps)) for _ in modules) for modules in by_layer]
    return torch.stack([torch.as_tensor(dots) for dots in layers], dim=1).cpu().numpy()


def _matrix_dots(of: Tap) -> Tensor:
    """(3, facts) float64: old with new, old with old, new with new, for one matrix."""
    (x, x_new), (d, d_new) = in_float64(of.inputs).chunk(2), in_float64(of.grads).chunk(2)

    def dot(xa: Tensor, da: Tensor, xb: Tensor, db: Tensor) -> Tensor:
        return ((da @ db.mT) * (xa @ xb.mT)).sum((1, 2))

    return torch.stack([dot(x, d, x_new, d_new), dot(x, d, x, d), dot(x_new, d_new, x_new, d_new)])


def reference_kernel_dots(
    model: LanguageModel,
    facts: Sequence[ProxyFact],
    old_answers: Sequence[str],
    *,
    loss: Loss = "full",
    matrices: Matrices = "all",
) -> KernelDots:
    """The plain way: two parameter gradients per layer and fact, one text at a time."""
    dots = np.empty((3, model.n_layers, len(facts)))
    for i, (fact, old_answer) in enumerate(zip(facts, old_answers, strict=True)):
        for layer in range(model.n_layers):
            old = _parameter_gradient(model, fact.text, old_answer, layer, loss, matrices)
            new = _parameter_gradient(model, fact.text, fact.target_new, layer, loss, matrices)
            dots[:, layer, i] = [float(a @ b) for a, b in ((old, new), (old, old), (new, new))]
    return KernelDots(*dots)


def _parameter_gradient(
    model: LanguageModel, prompt: str, answer: str, layer: int, loss: Loss, matrices: Matrices
) -> Tensor:
    """The gradient of one text's loss with respect to a layer's matrices, as one float64 vector."""
    weights = [module.get_parameter("weight") for module in mlp_matrices(model, layer, matrices)]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad():
            total = text_losses(model, encode(model, [prompt], [answer]), loss).sum()
        return torch.cat([g.double().flatten() for g in torch.autograd.grad(total, weights)])
    finally:
        for weight in weights:
            weight.requires_grad_(False)
