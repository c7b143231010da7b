"""Whether the fast path reads a network as the network reads itself: a few short rows, both ways.

A family that was found, or said by hand, is believed from here on only.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from corrigenda.errors import UnsupportedModelError
from corrigenda.models.encoding import TokenRow
from corrigenda.models.families import READ_PLAINLY
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.plain_rows import finish_plainly, read_plainly
from corrigenda.models.prefill import prefill
from corrigenda.models.prefix_cache import read_openings
from corrigenda.models.structure import EXACT, ROUNDING, apart
from corrigenda.models.tree_attention import Grove, Tree
from corrigenda.models.upper import finish

# What a network raises that the fast path calls otherwise than it expects.
_STRANGE = (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError, NotImplementedError)


@torch.no_grad()
def proved(model: LanguageModel) -> LanguageModel:
    """The model, read the fast way if that equals its own forward, else plainly.

    Raises UnsupportedModelError when its logits cannot be told from its hidden states.
    """
    allowed = ROUNDING.get(model.network.dtype, EXACT)
    wrong = _of_logits(model)
    if wrong > allowed:
        raise UnsupportedModelError(
            "the network's logits are not a function of its last hidden states alone",
            remedy="See docs/reference/models.md for what can be edited",
            model_type=model.family.name,
            apart=round(wrong, 4),
        )
    if model.family.name in READ_PLAINLY:
        return replace(model, plain=True)
    try:
        fast = max(_of_rows(model), _of_trees(model)) <= allowed
    except _STRANGE:
        fast = False
    return model if fast else replace(model, plain=True)


def _rows(model: LanguageModel) -> list[TokenRow]:
    """Two rows of other lengths and lookups, one of which stands behind an opening."""
    some = [(5 + 3 * i) % model.config.vocab_size for i in range(14)]
    return [TokenRow(tuple(some), 7, tuple(some[-2:]), 4), TokenRow(tuple(some[3:12]), 3, tuple(some[-1:]))]


def _of_rows(model: LanguageModel) -> float:
    """How far the fast path and a full forward are apart behind a residual, at a low and a middle layer."""
    rows = _rows(model)
    openings = read_openings(model, [row.tokens[: row.opening] for row in rows])
    worst = 0.0
    for layer in {0, model.n_layers // 2}:
        ready, truth = prefill(model, layer, rows, openings), read_plainly(model, layer, rows)
        noise = torch.randn(ready.projected.shape, generator=torch.Generator().manual_seed(layer))
        length = truth.hidden[:, :1, :].float().norm(dim=-1) / noise.norm(dim=-1, keepdim=True).to(
            model.device
        )
        residual = noise.to(model.device) * length
        fast, slow = finish(model, ready, residual), finish_plainly(model, truth, {layer: residual})
        for i, row in enumerate(rows):
            own = len(row.tokens) - row.lookup
            worst = max(worst, apart(fast[i, :own], slow[i, :own]))
    return worst


def _of_trees(model: LanguageModel) -> float:
    texts = [row.tokens for row in _rows(model)]
    texts.append((*texts[0][:6], *texts[1][:3]))
    trees = [Tree(), Tree()]
    ends = [(i % 2, trees[i % 2].add(text)[-1]) for i, text in enumerate(texts)]
    found = Grove(model, trees).read(ends)
    return max(apart(state, _alone(model, text)) for state, text in zip(found, texts, strict=True))


def _alone(model: LanguageModel, text: tuple[int, ...]) -> Tensor:
    tokens = torch.tensor([text], device=model.device)
    found: Tensor = model.body(input_ids=tokens, use_cache=False).last_hidden_state[0, -1]
    return found


def _of_logits(model: LanguageModel) -> float:
    tokens = torch.tensor([_rows(model)[0].tokens], device=model.device)
    states = model.body(input_ids=tokens, use_cache=False).last_hidden_state
    return apart(model.logits(states[0]), model.network(input_ids=tokens, use_cache=False).logits[0])
