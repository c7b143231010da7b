"""Text that a model says of its own accord, for background statistics without any corpus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from corrigenda.models.language_model import LanguageModel

_BATCH = 160


@torch.no_grad()
def sample_rows(
    model: LanguageModel,
    rows: int,
    length: int,
    seed: int,
    advance: Callable[[int], None] = lambda _tokens: None,
) -> Tensor:
    """`rows` texts of `length` tokens (rows, length), int64, sampled at temperature 1 from a start token.

    Drawn on the CPU's seeded generator: the same base gives the same text.
    advance   called with the number of tokens that are new
    """
    generator = torch.Generator().manual_seed(seed)
    done: list[Tensor] = []
    for start in range(0, rows, _BATCH):
        count = min(_BATCH, rows - start)
        tokens = torch.full((count, 1), start_token(model), dtype=torch.long, device=model.device)
        said: list[Tensor] = []
        cache: Any = None if model.plain else DynamicCache()
        for _ in range(length):
            out = model.body(input_ids=tokens, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            said.append(drawn(model.logits(out.last_hidden_state[:, -1]), generator))
            tokens = said[-1].to(model.device)
            advance(count)
        done.append(torch.cat(said, dim=1))
    return torch.cat(done) if done else torch.empty(0, length, dtype=torch.long)


def drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token for each row of `logits` (rows, vocabulary), by the inverse of the cumulated odds.

    A fifth of the time that torch.multinomial takes on a CPU.
    """
    heights = logits.softmax(-1).cpu().cumsum(-1)
    at = torch.rand(len(heights), 1, generator=generator) * heights[:, -1:]
    return torch.searchsorted(heights, at).clamp(max=heights.shape[1] - 1)


def start_token(model: LanguageModel) -> int:
    """The token that texts begin with: BOS where the tokenizer sets it, else end-of-text, else 0."""
    tokenizer = model.tokenizer
    first = tokenizer("a")["input_ids"][0]
    if tokenizer.bos_token_id is not None and first == tokenizer.bos_token_id:
        return int(first)
    return int(tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0)
