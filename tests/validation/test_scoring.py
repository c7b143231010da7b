"""Fast scoring is plain scoring: every figure of the one is a figure of the other."""

from __future__ import annotations

import copy
from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from corrigenda.validation.encoding import decode, encode_continuations, encode_prompts
from corrigenda.validation.probes import make_probe, probes_of
from corrigenda.validation.scoring import reference_score, score
from corrigenda.validation.tables import SCORES


@pytest.fixture
def model(model):
    """In float64: in float32, tokens that are equally likely but for rounding change places in a rank."""
    return replace(model, network=copy.deepcopy(model.network).double())


@pytest.fixture(scope="module")
def probes(make_correction):
    return probes_of(make_correction(number) for number in range(24))


@pytest.fixture
def tokens_read(model, monkeypatch):
    """How many tokens went through the network, forward by forward."""
    seen, forward = [], model.network.base_model.forward

    def counted(*args, **kwargs):
        seen.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.network.base_model, "forward", counted)
    return seen


def same(fast: pa.Table, plain: pa.Table) -> None:
    for column in ("probe_id", "tokens", "rank", "says", "begins", "top"):
        assert fast[column].to_pylist() == plain[column].to_pylist(), column
    for column in ("logp_expected", "logp_other"):
        assert fast[column].to_pylist() == pytest.approx(plain[column].to_pylist(), abs=2e-5), column


def test_fast_scores_are_the_plain_scores(model, probes):
    same(score(model, probes), reference_score(model, probes))


@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_the_size_of_a_batch_changes_nothing(model, probes, batch_tokens):
    same(score(model, probes, batch_tokens=batch_tokens), score(model, probes))


def test_logits_are_bounded_without_a_change_of_scores(model, probes, monkeypatch):
    whole = score(model, probes)
    monkeypatch.setattr("corrigenda.validation.reading.LOGITS_AT_ONCE", 1)
    same(score(model, probes), whole)


@pytest.mark.parametrize("tree_tokens", [1, 30, 100_000])
def test_the_size_of_a_tree_changes_nothing(model, probes, monkeypatch, tree_tokens):
    whole = score(model, probes)
    monkeypatch.setattr("corrigenda.validation.reading.TREE_TOKENS", tree_tokens)
    same(score(model, probes), whole)


def test_shared_beginnings_are_read_once(model, tokens_read, monkeypatch):
    """Eighteen prompts share five words, and each is followed by two answers."""
    monkeypatch.setattr("corrigenda.validation.reading.TREE_TOKENS", 100_000)
    prompts = [f"The mayor of the old town, {name} {i}, lives in" for name in ("Ann", "Bo") for i in range(9)]
    rows = encode_prompts(model.tokenizer, prompts)
    answers = encode_continuations(model.tokenizer, ["New York", "Rome"])
    begun = {row[:end] for row in rows for end in range(1, len(row) + 1)}
    behind = {row + a[:end] for row in rows for a in answers for end in range(1, len(a))}
    score(model, [make_probe("c", "fixed", prompt, "New York", "Rome") for prompt in prompts])
    assert tokens_read[0] == len(begun | behind)
    assert len(begun) < 0.7 * sum(map(len, rows))


@pytest.mark.parametrize("answer", ["Rome", "New York", "Saint Petersburg"])
def test_greedy_decoding_costs_only_what_is_not_known(llama, monkeypatch, answer):
    """One step for each token behind the first that reading the continuations has not shown."""
    monkeypatch.setattr("corrigenda.validation.reading.TREE_TOKENS", 1)
    (wanted,) = encode_continuations(llama.tokenizer, [answer])
    probe = make_probe("c", "fixed", "Ann Stone was born in", answer, None)
    calls, forward = [], llama.network.base_model.forward

    def counted(*args, **kwargs):
        calls.append(kwargs["input_ids"].shape)
        return forward(*args, **kwargs)

    monkeypatch.setattr(llama.network.base_model, "forward", counted)
    said = encode_continuations(llama.tokenizer, [score(llama, [probe])["says"][0].as_py()])[0]
    agreed = next((i for i, (a, b) in enumerate(zip(said, wanted, strict=False)) if a != b), len(wanted) - 1)
    assert len(calls) == 1 + len(wanted) - (agreed + 1)


def test_progress_counts_every_probe(llama, probes):
    done = []
    score(llama, [*probes, *probes], progress=done.append)
    assert sum(done) == 2 * len(probes)


def test_a_prompt_is_read_once_however_often_it_is_asked(llama, monkeypatch):
    probes = [
        make_probe("c", "fixed", "Ann Stone was born in", city, "Rome") for city in ("Paris", "Oslo", "Lima")
    ]
    seen, forward = [], llama.network.base_model.forward

    def counted(*args, **kwargs):
        seen.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(llama.network.base_model, "forward", counted)
    score(llama, probes)
    (prompt,) = encode_prompts(llama.tokenizer, ["Ann Stone was born in"])
    cities = encode_continuations(llama.tokenizer, ["Paris", "Oslo", "Lima", "Rome"])
    assert seen[0] == len(prompt) + len({c[:end] for c in cities for end in range(1, len(c))})


def test_a_continuation_that_greedy_decoding_says_begins(model):
    """Ask for what the model says anyway: rank 1, begins, and no likelier first token."""
    prompt = "Bo Hill works in"
    said = score(model, [make_probe("c", "fixed", prompt, "New York", None)])["says"][0].as_py()
    tokens = encode_prompts(model.tokenizer, [prompt])[0]
    again = score(model, [make_probe("c", "fixed", prompt, said, None)]).to_pylist()[0]
    if encode_continuations(model.tokenizer, [said])[0][:1] == greedy_token(model, tokens):
        assert again["rank"] == 1


def greedy_token(model, tokens):
    with torch.inference_mode():
        return (int(model.network(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()),)


def test_a_model_that_answers_nan_passes_nothing(llama, probes):
    broken = copy.deepcopy(llama.network)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    sick = type(llama)(broken, llama.tokenizer, llama.family, llama.device)
    table = score(sick, probes)
    assert not any(table["begins"].to_pylist())
    assert set(table["logp_expected"].to_pylist()) == {float("-inf")}
    assert set(table["rank"].to_pylist()) == {len(llama.tokenizer)}


def test_no_probes_give_an_empty_table(llama):
    assert score(llama, []).schema == SCORES


def test_scores_leave_the_network_as_it_was(llama, probes):
    before = {name: value.clone() for name, value in llama.network.state_dict().items()}
    score(llama, probes)
    assert all(torch.equal(value, before[name]) for name, value in llama.network.state_dict().items())


def test_a_continuation_is_appended_with_one_blank(llama):
    (tokens,) = encode_continuations(llama.tokenizer, ["Rome"])
    prompt, whole = encode_prompts(llama.tokenizer, ["Ann Stone works in", "Ann Stone works in Rome"])
    assert prompt + tokens == whole
    assert decode(llama.tokenizer, tokens) == "Rome"
