"""Drift and the base's scores: what a release is compared with."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from corrigenda.config import Defaults
from corrigenda.editing.background.corpus import background_tokens
from corrigenda.validation.base_scores import scope, score_base
from corrigenda.validation.drift import as_base, beside, drift, swapped
from corrigenda.validation.probes import RIVALLED, probes_of
from corrigenda.validation.scoring import score

LAYER = 1


@pytest.fixture(scope="module")
def text():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(2, 250, (length,), generator=generator).tolist() for length in (9, 17, 17, 30, 2)]


@pytest.fixture
def edited(model):
    """The model with one tensor changed, and that tensor as the base has it."""
    original = model.weight(LAYER).clone()
    torch.manual_seed(0)
    candidate = replace(model, network=copy.deepcopy(model.network))
    with torch.no_grad():
        candidate.weight(LAYER).add_(0.3 * torch.randn_like(original))
    return candidate, original


def test_a_candidate_that_is_the_base_has_not_drifted(model, text):
    table = drift(model, text, as_base(model, {LAYER: model.weight(LAYER).clone()}))
    assert table["kl"].to_pylist() == pytest.approx([0.0] * len(text), abs=1e-9)
    assert table["logp_before"] == table["logp_after"]


def test_one_tensor_put_back_is_the_base(model, edited, text):
    candidate, original = edited
    swapped_in = drift(candidate, text, as_base(candidate, {LAYER: original}))
    assert swapped_in == drift(candidate, text, beside(model))
    assert min(swapped_in["kl"].to_pylist()) > 0


def test_drift_is_the_plain_mean_over_positions(model, edited, text):
    """One sequence per forward, written from the definition: KL(p || q) = sum p log(p / q)."""
    candidate, original = edited
    table = drift(candidate, text, as_base(candidate, {LAYER: original})).to_pylist()
    for row, sequence in zip(table, sorted(text, key=len), strict=True):
        tokens = torch.tensor([sequence])
        p = model.network(tokens).logits[0, :-1].double().softmax(-1)
        q = candidate.network(tokens).logits[0, :-1].double().softmax(-1)
        following = tokens[0, 1:, None]
        assert row["kl"] == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-4)
        assert row["logp_before"] == pytest.approx(p.gather(-1, following).log().mean().item(), rel=1e-4)
        assert row["logp_after"] == pytest.approx(q.gather(-1, following).log().mean().item(), rel=1e-4)
        assert row["tokens"] == len(sequence) - 1


def test_bounded_logits_change_no_figure(edited, text, monkeypatch):
    candidate, original = edited
    whole = drift(candidate, text, as_base(candidate, {LAYER: original}))
    monkeypatch.setattr("corrigenda.validation.drift.LOGITS_AT_ONCE", 1)
    single = drift(candidate, text, as_base(candidate, {LAYER: original}))
    assert single["kl"].to_pylist() == pytest.approx(whole["kl"].to_pylist(), rel=1e-3)


def test_text_of_one_token_predicts_nothing(llama):
    assert drift(llama, [[5], []], beside(llama)).num_rows == 0


def test_a_swapped_tensor_comes_back_even_when_the_block_raises(llama):
    weight = llama.weight(LAYER)
    bits, place = weight.clone(), weight.data_ptr()
    with pytest.raises(RuntimeError, match="boom"), swapped(weight, torch.zeros_like(weight)):
        assert not weight.any()
        raise RuntimeError("boom")
    assert torch.equal(weight, bits)
    assert weight.data_ptr() == place


def test_a_tensor_of_another_shape_is_refused(llama):
    with pytest.raises(ValueError, match="shape"), swapped(llama.weight(LAYER), torch.zeros(3)):
        pass


def test_drift_text_is_not_the_text_that_edits_are_solved_against(llama):
    """By default both are sampled from the base itself, with different seeds."""
    settings = Defaults()
    rows = [
        {tuple(row) for row in background_tokens(llama, text.model_copy(update={"tokens": 1000})).tolist()}
        for text in (settings.covariance, settings.drift)
    ]
    assert all(len(some) > 5 for some in rows)
    assert not rows[0] & rows[1]


# The base's scores --------------------------------------------------------------------------------------


def test_what_the_base_says_is_the_rival_where_no_old_answer_was_given(llama, make_correction):
    probes = probes_of([make_correction(i, target_old=None) for i in range(6)])
    base = score_base(llama, probes)
    for probe, row in zip(base.probes, base.scores.to_pylist(), strict=True):
        if probe.kind in RIVALLED:
            assert probe.other == row["says"].strip()
        elif probe.kind == "locality":
            assert row["logp_other"] is not None


def test_a_base_that_says_it_already_has_no_rival(llama, make_correction):
    rewrite, _question = probes_of([make_correction(0, target_old=None, paraphrases=(), neighborhood=())])
    said = score_base(llama, [rewrite]).scores["says"][0].as_py()
    knows = score_base(llama, [replace(rewrite, expected=said)])
    if knows.scores["begins"][0].as_py():
        assert knows.probes[0].other is None


def test_known_questions_are_not_asked_again(llama, make_correction, monkeypatch):
    first = [make_correction(i) for i in range(4)]
    more = [*first, make_correction(4, target_old=None)]
    pack = score_base(llama, probes_of(first)).fresh
    asked = []

    def counted(model, probes, **kwargs):
        asked.extend(probes)
        return score(model, probes, **kwargs)

    monkeypatch.setattr("corrigenda.validation.base_scores.score", counted)
    second = score_base(llama, probes_of(more), [pack])
    assert {probe.correction_id for probe in asked} == {"c004"}
    asked.clear()
    third = score_base(llama, probes_of(more), [pack, second.fresh])
    assert asked == []
    assert third.fresh is None
    assert third.scores == second.scores
    assert third.probes == second.probes


def test_a_pack_that_cannot_be_read_is_as_good_as_none(llama, make_correction):
    probes = probes_of([make_correction(0)])
    assert score_base(llama, probes, [b"rubbish"]).scores == score_base(llama, probes).scores


def test_the_scope_names_weights_and_tokenizer():
    assert len({scope("a", "b"), scope("b", "a"), scope("a", "a")}) == 3
