"""What the editor practises is what the scorer asks and what stands in the text, whatever the tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_of_the_world import KINDS, tokenizer_of

from corrigenda.models.encoding import continuation_tokens, encode, joint, prompt_tokens, text_of
from corrigenda.validation.encoding import encode_prompts

WORDS = ("Ada", "Paris", "Göttingen", "New York", "the", "capital", "of", "3,000", "said")
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)
kinds = pytest.mark.parametrize("kind", KINDS)
around = pytest.mark.parametrize(("begins", "ends"), [(False, False), (True, False), (True, True)])


def own_tokens(tokenizer: Any, text: str, ends: bool) -> tuple[int, ...]:
    """A text's tokens as the tokenizer gives them, without the one that ends it."""
    ids = tuple(tokenizer(text)["input_ids"])
    return ids[:-1] if ends else ids


@kinds
@around
@given(before=words, subject=words, after=words, target=words, context=st.sampled_from(["", "It is so. "]))
@settings(max_examples=12)
def test_editor_and_scorer_read_the_tokens_of_the_text_itself(
    kind: str, begins: bool, ends: bool, before: str, subject: str, after: str, target: str, context: str
) -> None:
    tokenizer = tokenizer_of(kind, begins=begins, ends=ends)
    prompt = f"{before} {{}} {after}"
    asked = prompt.replace("{}", subject)
    row = encode(tokenizer, prompt, subject, target, context)
    whole = own_tokens(tokenizer, f"{context}{asked} {target}", ends)
    assert (*row.tokens, row.targets[-1]) == whole
    assert prompt_tokens(tokenizer, [asked]) == encode_prompts(tokenizer, [asked])
    assert continuation_tokens(tokenizer, [asked], [target]) == [row.targets]
    assert text_of(tokenizer, row.targets) == target


@kinds
@given(before=words, subject=words, after=words)
@settings(max_examples=12)
def test_the_lookup_is_the_last_token_of_the_subject(
    kind: str, before: str, subject: str, after: str
) -> None:
    tokenizer = tokenizer_of(kind, begins=True)
    row = encode(tokenizer, f"{before} {{}} {after}", subject)
    spans = tokenizer(f"{before} {subject} {after}", return_offsets_mapping=True)["offset_mapping"]
    end = len(f"{before} {subject}")
    assert spans[row.lookup][1] == end
    assert spans[row.lookup + 1][0] >= end


@pytest.mark.parametrize(
    ("prompt", "text", "between"),
    [
        ("The capital is", "Paris", " "),
        ("The capital is ", "Paris", " "),
        ('The band is called "', "Queen", ""),
        ('He said "yes" and "no"', "twice", " "),
        ("Der Ort heißt „", "Bonn", ""),
        ("La ville s'appelle «", "Lyon", ""),
        ("The town (", "Bonn", ""),
        ("日本的首相是", "岸田", ""),
        ("首都：", "東京", ""),
        ("The prime minister of Japan is", "岸田", " "),
        ("เมืองหลวงคือ", "กรุงเทพ", ""),
        ("서울은", "도시", " "),
        ("She left", ", and came back", ""),
        ("", "Paris", ""),
    ],
)
def test_a_blank_stands_between_where_the_script_has_one(prompt: str, text: str, between: str) -> None:
    assert joint(prompt, text) == between


@kinds
def test_a_target_without_a_blank_is_the_end_of_the_text(kind: str) -> None:
    tokenizer = tokenizer_of(kind, begins=True)
    for prompt, target in (('He said "', "Rome"), ("日本の首相は", "岸田")):
        (tokens,) = continuation_tokens(tokenizer, [prompt], [target])
        whole = tuple(tokenizer(prompt + target)["input_ids"])
        assert whole[-len(tokens) :] == tokens or text_of(tokenizer, tokens) == target
