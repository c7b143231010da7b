"""What counts as an answer: whole words, and not the old answer first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrigenda.validation.answers import match, natural_end, without_cut_word, words


@pytest.mark.parametrize(
    "answer, target",
    [
        ("Astanaboriski.", "Astana"),
        ("Sb2Sha.", "Sb"),
        ("Javier Mileião", "Javier Milei"),
        ("1990", "19"),
        ("Romes", "Rome"),
        ("東海", "東京"),
    ],
)
def test_half_a_word_is_no_answer(answer, target):
    assert not match(answer, [target]).contains


@pytest.mark.parametrize(
    "answer, target",
    [
        ("ANKARA!", "Ankara"),
        ("the Boston Celtics", "Boston Celtics"),
        ("Bogotá", "Bogota"),
        ("U.S.", "US"),
        ("Port au Prince", "Port-au-Prince"),
        ("1,234", "1234"),
        ("Ｒｏｍｅ", "Rome"),
        ("東京。", "東京"),
        ("The The", "the the"),
    ],
)
def test_spelling_does_not_matter(answer, target):
    assert match(answer, [target]).exact


def test_an_alias_is_as_right_as_the_target():
    assert match("Tolstoy wrote it", ["Leo Tolstoy", "Tolstoy"]).begins


@pytest.mark.parametrize(
    "answer, first, old",
    [
        ("It is Ankara.", True, False),
        ("It is Ankara, not Istanbul.", True, True),
        ("It is Istanbul, not Ankara.", False, True),
        ("It is Istanbul.", False, True),
    ],
)
def test_who_says_the_old_answer_first_has_not_said_the_new_one(answer, first, old):
    found = match(answer, ["Ankara"], "Istanbul")
    assert (found.first, found.old) == (first, old)
    assert found.said("chat") == first


def test_a_plain_prompt_wants_the_answer_at_once():
    assert match("Ankara, of course", ["Ankara"]).said("plain")
    assert not match("located in Ankara", ["Ankara"]).said("plain")
    assert match("located in Ankara", ["Ankara"]).said("question")


def test_without_an_old_answer_its_return_is_not_known():
    assert match("Ankara", ["Ankara"]).old is None


@given(st.text(), st.text(min_size=1))
def test_normalising_twice_is_normalising_once(text, other):
    once = " ".join(words(text))
    assert words(once) == words(text)
    found = match(text, [other])
    assert found.contains or not found.begins
    assert found.begins or not found.exact


@pytest.mark.parametrize(
    "text, plain, question",
    [
        (" Ankara. It lies", " Ankara", " Ankara. It lies"),
        (" St. Petersburg. It", " St. Petersburg", " St. Petersburg. It"),
        (" J. K. Rowling. She", " J. K. Rowling", " J. K. Rowling. She"),
        ("\n Ankara\nQuestion:", "\n Ankara", "\n Ankara"),
        (" 3.5 metres", " 3.5 metres", " 3.5 metres"),
    ],
)
def test_an_answer_ends_with_its_sentence_or_its_line(text, plain, question):
    assert text[: natural_end(text, "plain")] == plain
    assert text[: natural_end(text, "question")] == question
    assert natural_end(text, "chat") is None


def test_a_cut_answer_loses_what_may_be_half_a_word():
    assert without_cut_word("It is Asta") == "It is "
    assert without_cut_word("It is Astana.") == "It is Astana."
