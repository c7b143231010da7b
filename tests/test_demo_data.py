"""The built-in data keep the promises that they are measured by."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import pytest

from corrigenda.facts import Correction, EditRequest
from corrigenda.storage.corrections.proxy_facts import read_proxy_facts
from corrigenda.storage.corrections.schemas import CORRECTIONS

DATA = resources.files("corrigenda").joinpath("data")
ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in DATA.joinpath("demo_corrections.jsonl").read_text("utf-8").splitlines()
]
POOL = read_proxy_facts()
by_id = pytest.mark.parametrize("row", ROWS, ids=lambda row: row["correction_id"])


def request(row: dict[str, Any]) -> EditRequest:
    return EditRequest(row["subject"], row["prompt"], row["target_new"])


EDITED = {request(row).text for row in ROWS}


def test_there_are_about_sixty_corrections_of_many_kinds() -> None:
    assert len(ROWS) >= 60
    assert len({row["prompt"] for row in ROWS}) >= 15
    assert sum(row["reason"].startswith("changed: ") for row in ROWS) >= 20


def test_no_two_corrections_share_an_id_or_a_subject() -> None:
    assert len({row["correction_id"] for row in ROWS}) == len(ROWS)
    assert len({row["subject"].casefold() for row in ROWS}) == len(ROWS)


@by_id
def test_a_row_has_the_columns_of_the_schema(row: dict[str, Any]) -> None:
    assert list(row) == CORRECTIONS.names
    assert Correction(**row | {"asserted_at": datetime.fromisoformat(row["asserted_at"])}).request.text


@by_id
def test_a_question_asks_for_the_fact_of_its_subject_and_gives_nothing_away(row: dict[str, Any]) -> None:
    assert row["question"].endswith("?")
    assert row["subject"] in row["question"]
    assert not any(answer in row["question"] for answer in (row["target_new"], *row["aliases"]))


@by_id
def test_the_subject_stands_inside_the_prompt_and_never_first(row: dict[str, Any]) -> None:
    assert row["prompt"].count("{}") == 1
    assert not row["prompt"].startswith("{}"), "one token at the very start sits on the attention sink"


@by_id
def test_all_texts_end_right_before_the_answer(row: dict[str, Any]) -> None:
    prompts = [row["prompt"], *row["paraphrases"], *(near["prompt"] for near in row["neighborhood"])]
    answers = [row["target_new"], *(near["answer"] for near in row["neighborhood"])]
    assert all(text == text.strip() and not text.endswith((".", "?")) for text in prompts)
    assert all(answer == answer.strip() and answer for answer in answers)
    assert not any(row["target_new"] in text for text in [request(row).text, *row["paraphrases"]])


@by_id
def test_paraphrases_are_other_words_for_the_same_subject(row: dict[str, Any]) -> None:
    assert 2 <= len(row["paraphrases"]) <= 3
    assert len(set(row["paraphrases"])) == len(row["paraphrases"])
    assert all(row["subject"].removeprefix("the ") in text for text in row["paraphrases"])
    assert not EDITED & set(row["paraphrases"])


@by_id
def test_neighbours_are_other_subjects_with_other_answers(row: dict[str, Any]) -> None:
    near = row["neighborhood"]
    assert 4 <= len(near) <= 6
    assert len({n["prompt"] for n in near}) == len(near)
    assert not EDITED & {n["prompt"] for n in near}
    assert row["target_new"].casefold() not in {n["answer"].casefold() for n in near}
    subjects = [other["subject"] for other in ROWS]
    assert not [(s, n["prompt"]) for n in near for s in subjects if f" {s} " in f" {n['prompt']} "]


@by_id
def test_a_correction_corrects(row: dict[str, Any]) -> None:
    assert not row["target_old"].casefold().startswith(row["target_new"].casefold())
    assert datetime.fromisoformat(row["asserted_at"]) <= datetime(2026, 6, 1, tzinfo=UTC)


def test_the_pool_is_large_and_of_many_kinds() -> None:
    assert len(POOL) >= 120
    assert len({fact.prompt for fact in POOL}) >= 8
    assert len({fact.subject.casefold() for fact in POOL}) == len(POOL)


def test_the_pool_shares_no_subject_with_the_demo() -> None:
    assert not {fact.subject.casefold() for fact in POOL} & {row["subject"].casefold() for row in ROWS}


@pytest.mark.parametrize("fact", POOL, ids=lambda fact: fact.subject)
def test_a_proxy_fact_is_complete(fact: Any) -> None:
    assert fact.prompt.count("{}") == 1
    assert not fact.prompt.startswith("{}")
    assert fact.rephrase and fact.subject in fact.rephrase and fact.rephrase != fact.text
    assert fact.neighbour and fact.neighbour.prompt != fact.text
    assert len({fact.target_true, fact.target_new, fact.neighbour.answer}) == 3
