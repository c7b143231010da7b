"""What the MLP matrices of all layers see and are told on a batch of texts, from one backward pass.

Weights stay frozen: only the inputs of a matrix and the loss gradients at its outputs are kept, never a
parameter gradient. Knows texts and matrices; nothing of scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from corrigenda.models.encoding import continuation_tokens, prompt_tokens
from corrigenda.models.encoding import encode as encode_row
from corrigenda.models.language_model import LanguageModel

Loss = Literal["full", "answer"]
Matrices = Literal["all", "projection"]


@dataclass(frozen=True, slots=True)
class Texts:
    """Right-padded texts of a prompt and its answer.

    ids      (b, t) int64
    mask     (b, t) bool    True on real tokens
    answer   (b, t) bool    True on tokens of the answer
    """

    ids: Tensor
    mask: Tensor
    answer: Tensor


@dataclass(frozen=True, slots=True)
class Tap:
    """One module on one batch of texts.

    inputs    (b, t, d_in)
    outputs   (b, t, d_out)
    grads     (b, t, d_out)   of the text's loss, at the outputs; zero on padding
    """

    inputs: Tensor
    outputs: Tensor
    grads: Tensor


def encode(model: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> Texts:
    """Tokens of each prompt, with the tokenizer's own special tokens, and of its answer (may be empty)."""
    asked = prompt_tokens(model.tokenizer, prompts)
    said = continuation_tokens(model.tokenizer, prompts, answers)
    pairs = list(zip(asked, said, strict=True))

    def padded(rows: Sequence[Sequence[Any]]) -> Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(model.device)

    return Texts(
        ids=padded([[*p, *a] for p, a in pairs]),
        mask=padded([[True] * (len(p) + len(a)) for p, a in pairs]),
        answer=padded([[False] * len(p) + [True] * len(a) for p, a in pairs]),
    )


def mlp_matrices(model: LanguageModel, layer: int, which: Matrices = "all") -> list[nn.Module]:
    """The weight matrices of a layer's MLP: every leaf of it with a two-dimensional weight.

    That is gate, up and down for Llama; c_fc and c_proj for GPT-2, which keeps them transposed.
    """
    if which == "projection":
        return [model.projection(layer)]
    path = model.family.projection.rpartition(".")[0]
    mlp = model.layers[layer].get_submodule(path)
    # In some families (OPT) the MLP's matrices stand in the layer itself, beside its attention.
    inside = mlp.modules() if path else mlp.children()
    return [m for m in inside if getattr(getattr(m, "weight", None), "ndim", 0) == 2]


def text_losses(model: LanguageModel, texts: Texts, loss: Loss) -> Tensor:
    """Mean cross-entropy (nats per token) of each text, or of its answer alone; (b,)."""
    counted = (texts.mask if loss == "full" else texts.answer)[:, 1:]
    hidden = model.body(input_ids=texts.ids, attention_mask=texts.mask.long()).last_hidden_state
    nats = cross_entropy(model.logits(hidden[:, :-1][counted]), texts.ids[:, 1:][counted], reduction="none")
    per_token = torch.zeros(counted.shape, dtype=nats.dtype, device=nats.device).masked_scatter(counted, nats)
    return per_token.sum(1) / counted.sum(1)


def tap(model: LanguageModel, texts: Texts, modules: Sequence[nn.Module], loss: Loss = "full") -> list[Tap]:
    """One forward and one backward pass; what each of `modules` saw and was told, in their order."""
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[module] = (inputs[0].detach(), output)

    with torch.enable_grad(), _differentiable_embeddings(model), hooked(modules, keep):
        total = text_losses(model, texts, loss).sum()
    grads = torch.autograd.grad(total, [seen[m][1] for m in modules])
    taps = zip(modules, grads, strict=True)
    return [Tap(seen[module][0], seen[module][1].detach(), grad) for module, grad in taps]


def watch(model: LanguageModel, texts: Texts, modules: Sequence[nn.Module]) -> list[Tensor]:
    """What each of `modules` sees, (b, t, d_in), from one forward pass."""
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
        seen[module] = inputs[0].detach()

    with hooked(modules, keep):
        model.body(input_ids=texts.ids, attention_mask=texts.mask.long())
    return [seen[module] for module in modules]


def subject_ends(model: LanguageModel, prompts: Sequence[str], subjects: Sequence[str]) -> Tensor:
    """The last token of each subject in its prompt, or of the prompt where it does not occur; (b,)."""
    columns = []
    for prompt, subject in zip(prompts, subjects, strict=True):
        where = prompt.replace(subject, "{}", 1) if subject and subject in prompt else "{}"
        columns.append(encode_row(model.tokenizer, where, subject if where != "{}" else prompt).lookup)
    return torch.tensor(columns, device=model.device)


@contextmanager
def hooked(modules: Sequence[nn.Module], hook: Any) -> Iterator[None]:
    """Call `hook(module, inputs, output)` after each of `modules`, for the length of the block."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _differentiable_embeddings(model: LanguageModel) -> Iterator[None]:
    """Let the graph begin at the embeddings, since no weight asks for gradients."""

    def begin(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output.detach().requires_grad_()

    with hooked([model.network.get_input_embeddings()], begin):
        yield
