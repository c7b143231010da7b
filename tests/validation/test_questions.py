"""Questions made from prompts: English that a user would type, or none at all."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from corrigenda.validation.questions import question_of

ASKED = {
    "The capital of {} is the city of": "What is the capital of {}?",
    "The name of the prime minister of {} is": "Who is the prime minister of {}?",
    "The office of {} is held by": "Who holds the office of {}?",
    "The CEO of {} is named": "Who is the CEO of {}?",
    "The chemical symbol for {} is": "What is the chemical symbol for {}?",
    "{}'s child is": "Who is {}'s child?",
    "{}'s capital is": "What is {}'s capital?",
    "The book {} was written by": "Who wrote the book {}?",
    "It is well known that {} was invented by": "Who invented {}?",
    "In the end, {} was won by": "Who won {}?",
    "The river that runs through {} is called the": "Which river runs through {}?",
    "{} is a part of the continent of": "On which continent is {}?",
    "{}, who is a citizen of": "Of which country is {} a citizen?",
    "{} was originally aired on": "On which channel did {} first appear?",
    "{} plays in the position of": "In which position does {} play?",
    "{} is a native speaker of": "What is the native language of {}?",
    "{} is located in the country of": "In which country is {}?",
    "{}'s headquarters are in": "Where are the headquarters of {}?",
    "{} works as": "What is the occupation of {}?",
    "What is the twin city of {}? It is": "What is the twin city of {}?",
    "Who owns {}?": "Who owns {}?",
}


@pytest.mark.parametrize("prompt, question", ASKED.items())
def test_a_common_relation_has_its_question(prompt, question):
    assert question_of(prompt) == question


@pytest.mark.parametrize("prompt", ["{}, from", "{} is a", "Twelve {} make", "Is it so? {} is", "{}"])
def test_what_no_rule_fits_has_none(prompt):
    assert question_of(prompt) is None


def test_every_built_in_prompt_has_a_question():
    data = resources.files("corrigenda").joinpath("data")
    for name in ("demo_corrections.jsonl", "proxy_facts.jsonl"):
        prompts = {json.loads(line)["prompt"] for line in data.joinpath(name).read_text("utf-8").splitlines()}
        questions = {prompt: question_of(prompt) for prompt in prompts}
        assert all(one and one.count("{}") == 1 and one.endswith("?") for one in questions.values()), (
            questions
        )
