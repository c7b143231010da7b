"""Context prefixes: a few words of the model's own, put before each prompt so that edits generalise.

The same model has the same contexts for ever: they are part of every edit's cache key.
"""

from __future__ import annotations

import torch

from corrigenda.facts import digest_of
from corrigenda.models.loading import LanguageModel

VERSION = 1
# MEMIT's seeds: the most common ways in which English sentences begin.
SEEDS = ("The", "Therefore", "Because", "I", "You")


def generate_contexts(model: LanguageModel, count: int, tokens: int, seed: int) -> tuple[str, ...]:
    """`count` sampled openings of some `tokens` tokens, each ending in `. `, after one empty context.

    The empty context stands first: the prompt as a user types it. (Meng et al. 2022, MEMIT, sec. 4.3.)
    """
    openings = [SEEDS[i % len(SEEDS)] for i in range(count)]
    return ("", *(_continued(model, text, tokens, seed + i) for i, text in enumerate(openings)))


def _continued(model: LanguageModel, text: str, tokens: int, seed: int) -> str:
    """Sampled from the five likeliest tokens, on the CPU's generator so that devices agree."""
    generator = torch.Generator().manual_seed(seed)
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"].to(model.device)
    for _ in range(tokens):
        with torch.no_grad():
            hidden = model.body(input_ids=ids).last_hidden_state[:, -1]
            top = model.logits(hidden)[0].topk(5)
        pick = torch.multinomial(top.values.softmax(-1).cpu(), 1, generator=generator)
        ids = torch.cat((ids, top.indices[pick.to(ids.device)][None]), dim=1)
    words = model.tokenizer.decode(ids[0], skip_special_tokens=True).replace("{}", " ")
    return " ".join(words.split()) + ". "


def contexts_digest(contexts: tuple[str, ...]) -> str:
    return digest_of([VERSION, *contexts])
