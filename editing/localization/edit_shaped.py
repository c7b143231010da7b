"""The edit-shaped score: where would a batch edit act, and on what else.

A batch edit at a layer is D = R U^T with U = (w C + K K^T)^-1 K: fact j moves the output of the projection
on any input k(x) by r_j (u_j . k(x)). To first order a fact gains m |dL/dr| there, m being the norm that
its residual may have. So the score of a layer for fact i is

    m_i |g_i| (c_i(rephrase) - |c_i(neighbour)|)

with c_i the share of its residual that arrives. One forward and one backward pass per fact and one forward
per other prompt give it for all layers; no weight is changed. The background C comes from the proxy
prompts' own tokens, which is crude and cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from corrigenda.editing.localization.layer_scores import LayerScores, summarize
from corrigenda.errors import EditError
from corrigenda.facts import ProxyFact
from corrigenda.models.hooks import encode, subject_ends, tap, watch
from corrigenda.models.language_model import LanguageModel, in_float64

VERSION = 1
_BATCH = 8
# Background keys per fact, and the ridge of C as a share of its mean diagonal.
WEIGHT = 15.0
_RIDGE = 0.05


@dataclass(frozen=True, slots=True)
class Reach:
    """What the score is made of, per layer and fact; (layers, facts) float64 each.

    push      m |g|: nats that the residual can gain at most, to first order
    own       share of the residual that arrives at the fact's own prompt
    rephrase  … at the rephrased prompt's subject
    stray     … at the neighbouring prompt's token that is hit hardest, absolute
    """

    push: Tensor
    own: Tensor
    rephrase: Tensor
    stray: Tensor

    @property
    def score(self) -> Tensor:
        return self.push * (self.rephrase - self.stray)


def edit_shaped(model: LanguageModel, facts: Sequence[ProxyFact], *, seed: int = 0) -> LayerScores:
    """Score every layer by the edit it would carry.

    Raises EditError when no fact has both a rephrased and a neighbouring prompt.
    """
    usable = [fact for fact in facts if fact.rephrase and fact.neighbour]
    if not usable:
        raise EditError(
            "no proxy fact has a rephrased and a neighbouring prompt",
            remedy="Use proxy facts with `rephrase` and `neighbour`, or the method lga",
            facts=len(facts),
        )
    per_fact = reach(model, usable).score.numpy()
    return summarize("edit-shaped", VERSION, per_fact, fences=False, seed=seed, mean=True)


def reach(model: LanguageModel, facts: Sequence[ProxyFact]) -> Reach:
    """How far each fact's edit would reach at every layer."""
    batches = [facts[start : start + _BATCH] for start in range(0, len(facts), _BATCH)]
    keys, push = (
        torch.cat(part, 1) for part in zip(*(_pushes(model, some) for some in batches), strict=True)
    )
    asked = _Prompts.of([fact.rephrase or "" for fact in facts], [fact.subject for fact in facts], model)
    near = _Prompts.of([fact.neighbour.prompt if fact.neighbour else "" for fact in facts], [], model)
    shares = [_shares(keys[layer], asked, near, layer) for layer in range(model.n_layers)]
    own, rephrase, stray = (torch.stack(part, 0) for part in zip(*shares, strict=True))
    return Reach(push, own, rephrase, stray)


def _pushes(model: LanguageModel, facts: Sequence[ProxyFact]) -> tuple[Tensor, Tensor]:
    """At the subject's end: keys (layers, facts, d_in), and m |g|, what a residual gains (layers, facts)."""
    prompts = [fact.text for fact in facts]
    texts = encode(model, prompts, [fact.target_new for fact in facts])
    at = subject_ends(model, prompts, [fact.subject for fact in facts])
    row = torch.arange(len(facts), device=model.device)
    projections = [model.projection(layer) for layer in range(model.n_layers)]
    taps = tap(model, texts, [*projections, *model.layers], "answer")
    edits, layers = taps[: model.n_layers], taps[model.n_layers :]
    keys = torch.stack([found.inputs[row, at] for found in edits])
    gains = torch.stack([in_float64(found.grads[row, at]).norm(dim=-1) for found in edits])
    sizes = torch.stack([in_float64(found.outputs[row, at]).norm(dim=-1) for found in layers])
    return in_float64(keys).cpu(), (gains * sizes).cpu()


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Keys of whole prompts.

    keys    per layer (prompts, tokens, d_in)
    mask    (prompts, tokens)  True on real tokens but the first of each text, the attention sink
    at      (prompts,)         the subject's last token, or the prompt's
    """

    keys: list[Tensor]
    mask: Tensor
    at: Tensor

    @classmethod
    def of(cls, prompts: Sequence[str], subjects: Sequence[str], model: LanguageModel) -> _Prompts:
        texts = encode(model, prompts, [""] * len(prompts))
        projections = [model.projection(layer) for layer in range(model.n_layers)]
        with torch.inference_mode():
            keys = watch(model, texts, projections)
        mask = texts.mask.clone()
        mask[:, 0] = False
        at = subject_ends(model, prompts, subjects or [""] * len(prompts))
        return cls([k.cpu() for k in keys], mask.cpu(), at.cpu())


def _shares(own: Tensor, asked: _Prompts, near: _Prompts, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shares of each fact's residual that arrive at its own, its rephrased and its neighbouring prompt."""
    rephrased, strays = asked.keys[layer].double(), near.keys[layer].double()
    background = torch.cat((own, rephrased[asked.mask], strays[near.mask]))
    update = edit_directions(own, background)
    row = torch.arange(len(own))
    c_own = (own * update).sum(-1)
    c_rephrase = (rephrased[row, asked.at] * update).sum(-1)
    c_near = (strays * update[:, None]).sum(-1).abs().masked_fill(~near.mask, 0.0).amax(-1)
    return c_own, c_rephrase, c_near


def edit_directions(keys: Tensor, background: Tensor) -> Tensor:
    """Rows of U^T = K^T (w C + K K^T)^-1, by which MEMIT's update meets an input.

    keys         (facts, d_in)    K^T
    background   (tokens, d_in)   C is their second moment, with a ridge
    returns      (facts, d_in)

    Keys and background span all that matters, so the system has their number of rows, not d_in.
    """
    n, tokens = len(keys), len(background)
    spread = float(background.square().sum()) / background.numel()
    # Rows scaled so that their Gram matrix is w C + K K^T but for the ridge: A^T A + ridge I.
    rows = torch.cat((keys, background * (WEIGHT / tokens) ** 0.5))
    ridge = WEIGHT * _RIDGE * spread
    gram = rows @ rows.T
    gram.diagonal().add_(ridge)
    # (A^T A + ridge I)^-1 A^T = A^T (A A^T + ridge I)^-1; the first n rows of A are the keys.
    chosen = torch.zeros(len(rows), n, dtype=rows.dtype)
    chosen[:n] = torch.eye(n, dtype=rows.dtype)
    return torch.cholesky_solve(chosen, torch.linalg.cholesky(gram)).T @ rows
