"""The golden-layer study's facts: five questions to each, from data sets and proxies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from corrigenda.facts import EditRequest, ProxyFact
from corrigenda.models.hooks import encode
from corrigenda.models.language_model import LanguageModel

# Columns of an outcome: two halves of the held-out prompts, so that an oracle can be cross-fitted.
PROMPTS = ("rewrite", "paraphrase_a", "paraphrase_b", "near_a", "near_b")


@dataclass(frozen=True, slots=True)
class Question:
    """`wanted` must beat `rival` in mean log-probability.

    Without a rival the answer's tokens are marked one by one, each behind those before it: the share of them
    that is the likeliest token. `likeliest` gives other tokens to expect: what the base says there.
    """

    prompt: str
    wanted: str
    rival: str | None = None
    likeliest: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class StudyFact:
    """A request and its five questions, in the order of PROMPTS (None where the data have none)."""

    request: EditRequest
    questions: tuple[Question | None, ...]


def counterfact(rows: Sequence[dict[str, Any]]) -> list[StudyFact]:
    """Complete CounterFact records (Meng et al. 2022)."""
    facts = []
    for row in rows:
        new, old = row["target_new"], row["target_true"]
        moved = (row["prompt"].replace("{}", row["subject"]), *row["paraphrase_prompts"][:2])
        facts.append(
            StudyFact(
                EditRequest(row["subject"], row["prompt"], new),
                (
                    *(Question(prompt, new, old) for prompt in moved),
                    *(Question(prompt, old, new) for prompt in row["neighborhood_prompts"][:2]),
                ),
            )
        )
    return facts


def zsre(rows: Sequence[dict[str, Any]], model: LanguageModel) -> list[StudyFact]:
    """zsRE questions (Levy et al. 2017): token accuracy; behind a neighbour's answer the base must stay right
    or wrong as it is, token by token (as kmeng01/memit counts)."""
    facts = []
    for row in rows:
        new, near = row["target_new"], Question(row["locality_prompt"], row["locality_answer"])
        facts.append(
            StudyFact(
                EditRequest(row["subject"], row["prompt"], new),
                (
                    Question(row["prompt"].replace("{}", row["subject"]), new),
                    Question(row["paraphrase_prompts"][0], new),
                    None,
                    replace(near, likeliest=_likeliest(model, near)),
                    None,
                ),
            )
        )
    return facts


def _likeliest(model: LanguageModel, question: Question) -> tuple[int, ...]:
    """The model's likeliest token in the place of each token of the answer."""
    texts = encode(model, [question.prompt], [question.wanted])
    with torch.inference_mode():
        hidden = model.body(input_ids=texts.ids).last_hidden_state[0, :-1]
        return tuple(model.logits(hidden[texts.answer[0, 1:]]).argmax(-1).tolist())


def proxies(facts: Sequence[ProxyFact]) -> list[StudyFact]:
    """Localization's own facts, to sweep the layers by brute force on them, too."""
    return [
        StudyFact(
            EditRequest(fact.subject, fact.prompt, fact.target_new),
            (
                Question(fact.text, fact.target_new, fact.target_true),
                Question(fact.rephrase, fact.target_new, fact.target_true) if fact.rephrase else None,
                None,
                Question(fact.neighbour.prompt, fact.neighbour.answer, fact.target_new)
                if fact.neighbour
                else None,
                None,
            ),
        )
        for fact in facts
    ]


def draw(rows: Sequence[dict[str, Any]], count: int, taken: set[str], seed: int) -> list[dict[str, Any]]:
    """A seeded sample with a subject of its own per row, none of them in `taken`."""
    found: dict[str, dict[str, Any]] = {}
    for row in random.Random(seed).sample(list(rows), len(rows)):
        if row["subject"] not in taken and len(found) < count:
            found.setdefault(row["subject"], row)
    return list(found.values())
