"""What others pick layers by: causal tracing (Meng et al. 2022, ROME) and mean gradients (SaLEM).

Baselines for the study of localizers, selectable by name like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corrigenda.editing.localization.layer_scores import Floats, LayerScores, summarize
from corrigenda.facts import ProxyFact
from corrigenda.models.hooks import Texts, encode, hooked, mlp_matrices, subject_ends, tap, text_losses
from corrigenda.models.language_model import LanguageModel, in_float64

TRACING_VERSION = 1
SALEM_VERSION = 1
_BATCH = 8
# ROME: noise of three standard deviations of the embeddings; MLP outputs restored in a window of layers.
_NOISE = 3.0
NOISE_SAMPLES = 3
WINDOW_SHARE = 0.2


def causal_tracing(model: LanguageModel, facts: Sequence[ProxyFact], *, seed: int = 0) -> LayerScores:
    """Score a layer by the indirect effect of its MLP at the subject's last token.

    The subject's embeddings are drowned in noise; the MLP outputs of a window of layers around the scored
    one are put back as they were; the effect is what the true answer's log-probability gains (nats).
    """
    batches = [facts[start : start + _BATCH] for start in range(0, len(facts), _BATCH)]
    per_fact = np.concatenate([_indirect_effects(model, some, seed) for some in batches], 1)
    return summarize("causal-tracing", TRACING_VERSION, per_fact, fences=False, seed=seed, mean=True)


def _indirect_effects(model: LanguageModel, facts: Sequence[ProxyFact], seed: int) -> Floats:
    """(layers, facts), mean over noise samples."""
    prompts, subjects = [fact.text for fact in facts], [fact.subject for fact in facts]
    texts = encode(model, prompts, [fact.target_true for fact in facts])
    ends = subject_ends(model, prompts, subjects)
    starts = subject_starts(model, prompts, subjects)
    column = torch.arange(texts.ids.shape[1], device=model.device)
    inside = (starts[:, None] <= column) & (column <= ends[:, None])
    projections = [model.projection(layer) for layer in range(model.n_layers)]
    clean: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: Any, output: Tensor) -> None:
        clean[module] = output[torch.arange(len(facts)), ends]

    effects = np.zeros((model.n_layers, len(facts)))
    half = max(1, round(model.n_layers * WINDOW_SHARE)) // 2
    with torch.inference_mode():
        with hooked(projections, keep):
            text_losses(model, texts, "answer")
        for sample in range(NOISE_SAMPLES):
            noise = _noise(model, inside, seed + sample)
            corrupt = _restored_loss(model, texts, noise, ends, {})
            for layer in range(model.n_layers):
                window = projections[max(0, layer - half) : layer + half + 1]
                restored = _restored_loss(model, texts, noise, ends, {m: clean[m] for m in window})
                effects[layer] += in_float64(corrupt - restored).cpu().numpy() / NOISE_SAMPLES
    return effects


def subject_starts(model: LanguageModel, prompts: Sequence[str], subjects: Sequence[str]) -> Tensor:
    """The first token of each subject in its prompt; (b,)."""
    columns = []
    for prompt, subject in zip(prompts, subjects, strict=True):
        first = prompt.index(subject)
        spans = model.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        columns.append(next(i for i, (_, stop) in enumerate(spans) if stop > first))
    return torch.tensor(columns, device=model.device)


def _noise(model: LanguageModel, inside: Tensor, seed: int) -> Tensor:
    """(b, t, d): Gaussian on the subject's tokens, zero elsewhere."""
    table = model.network.get_input_embeddings()
    width, dtype = table.weight.shape[1], table.weight.dtype
    draw = torch.randn((*inside.shape, width), generator=torch.Generator().manual_seed(seed), dtype=dtype)
    noise: Tensor = draw.to(model.device) * inside[..., None] * _NOISE * table.weight.std()
    return noise


def _restored_loss(
    model: LanguageModel, texts: Texts, noise: Tensor, at: Tensor, restored: dict[nn.Module, Tensor]
) -> Tensor:
    """Loss of the answer (b,) with noisy embeddings and some outputs at `at` put back."""
    row = torch.arange(len(at), device=at.device)

    def corrupt(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output + noise

    def restore(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        mended = output.clone()
        mended[row, at] = restored[module]
        return mended

    with hooked([model.network.get_input_embeddings()], corrupt), hooked(list(restored), restore):
        return text_losses(model, texts, "answer")


def salem(model: LanguageModel, facts: Sequence[ProxyFact], *, seed: int = 0) -> LayerScores:
    """Score a layer by the mean absolute gradient of its MLP weights under the new answers' loss."""
    batches = [facts[start : start + _BATCH] for start in range(0, len(facts), _BATCH)]
    per_fact = np.concatenate([_mean_gradients(model, some) for some in batches], 1)
    return summarize("salem", SALEM_VERSION, per_fact, fences=False, seed=seed, mean=True)


def _mean_gradients(model: LanguageModel, facts: Sequence[ProxyFact]) -> Floats:
    """(layers, facts): mean over a layer's weights of |dL/dw|."""
    texts = encode(model, [fact.text for fact in facts], [fact.target_new for fact in facts])
    by_layer = [mlp_matrices(model, layer) for layer in range(model.n_layers)]
    taps = iter(tap(model, texts, [m for modules in by_layer for m in modules], "answer"))
    rows = []
    for modules in by_layer:
        gradients = [(found.grads.mT @ found.inputs).abs() for found in (next(taps) for _ in modules)]
        weights = sum(gradient[0].numel() for gradient in gradients)
        rows.append(torch.stack([in_float64(g.float().sum(2)).sum(1) for g in gradients]).sum(0) / weights)
    return torch.stack(rows).cpu().numpy()
