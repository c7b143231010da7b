"""Proxy facts: the facts that localization probes a model with.

Knows how a model answers a prompt; nothing of files (`storage.corrections.proxy_facts` reads those), nor of
scores.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from corrigenda.facts import ProxyFact
from corrigenda.models.hooks import encode
from corrigenda.models.language_model import LanguageModel

# Prompts per forward pass.
_BATCH = 16


def known_facts(
    model: LanguageModel, pool: Sequence[ProxyFact], sample: int, seed: int
) -> tuple[ProxyFact, ...]:
    """A seeded sample of at most `sample` facts of the pool that the model answers right."""
    right = says(model, [fact.text for fact in pool], [fact.target_true for fact in pool])
    known = [fact for fact, knows in zip(pool, right, strict=True) if knows]
    return tuple(random.Random(seed).sample(known, min(sample, len(known))))


def sampled_facts(
    first: Sequence[ProxyFact], pool: Sequence[ProxyFact], sample: int, seed: int
) -> tuple[ProxyFact, ...]:
    """The facts `first`, filled up to `sample` with others of the pool: for models that know too little."""
    others = [fact for fact in pool if fact not in set(first)]
    missing = min(max(0, sample - len(first)), len(others))
    return (*first, *random.Random(seed).sample(others, missing))


def says(model: LanguageModel, prompts: Sequence[str], answers: Sequence[str]) -> list[bool]:
    """Whether greedy decoding continues each prompt with its answer, token by token.

    One pass over prompt and answer decides it: greedy decoding gives the answer if and only if every
    token of it is the likeliest one behind those before.
    """
    verdicts: list[bool] = []
    for start in range(0, len(prompts), _BATCH):
        texts = encode(model, prompts[start : start + _BATCH], answers[start : start + _BATCH])
        asked = texts.answer[:, 1:]
        with torch.inference_mode():
            hidden = model.body(input_ids=texts.ids, attention_mask=texts.mask.long()).last_hidden_state
            likeliest = model.logits(hidden[:, :-1][asked]).argmax(-1)
        wrong = torch.zeros_like(asked).masked_scatter(asked, likeliest != texts.ids[:, 1:][asked])
        verdicts += (~wrong.any(1)).tolist()
    return verdicts


def greedy_answers(model: LanguageModel, facts: Sequence[ProxyFact]) -> list[str]:
    """The model's own answer to each fact's prompt, as many tokens as the true answer has."""
    answers: list[str] = []
    for fact in facts:
        texts = encode(model, [fact.text], [fact.target_true])
        length = int(texts.answer.sum())
        prompt = encode(model, [fact.text], [""]).ids[0]
        answers.append(model.tokenizer.decode(_decode(model, prompt, length)).strip())
    return answers


def _decode(model: LanguageModel, ids: Tensor, length: int) -> Tensor:
    """`length` greedy tokens behind `ids` (t,)."""
    prompt = len(ids)
    with torch.inference_mode():
        for _ in range(length):
            hidden = model.body(input_ids=ids[None]).last_hidden_state
            ids = torch.cat([ids, model.logits(hidden[0, -1:]).argmax(-1)])
    return ids[prompt:]
