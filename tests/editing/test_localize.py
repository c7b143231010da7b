"""Localization as a whole: methods by name, fences, the facts it asks, and its result as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FACTS, tiny

from corrigenda.editing.localization.baselines import causal_tracing, salem, subject_starts
from corrigenda.editing.localization.edit_shaped import _RIDGE, WEIGHT, edit_directions, reach
from corrigenda.editing.localization.layer_scores import LayerScores, best, pick_share, within_fences
from corrigenda.editing.localization.lga import _parameter_gradient, kernel_dots
from corrigenda.editing.localization.localize import METHODS, VERSIONS, localize, shortlist
from corrigenda.editing.localization.proxy import greedy_answers, known_facts, says
from corrigenda.errors import UsageError
from corrigenda.models.hooks import subject_ends
from corrigenda.models.language_model import LanguageModel
from corrigenda.settings import Localization

FAMILIES = ("llama", "gpt2", "gemma3_text")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny(request.param)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_scores_every_layer_the_same_way_twice(model, method):
    settings = Localization(method=method)
    found = localize(model, FACTS, settings, trial=lambda layer: -abs(layer - 2))
    assert found == localize(model, FACTS, settings, trial=lambda layer: -abs(layer - 2))
    assert len(found.scores) == len(found.kept) == model.n_layers
    assert found.kept[found.pick] and found.method == method and found.version == VERSIONS[method]
    assert LayerScores.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_two_stage_tries_the_layers_that_lga_scores_highest_and_follows_its_trials(model):
    first = localize(model, FACTS, Localization(method="lga"))
    best = sorted((i for i in range(4) if first.kept[i]), key=lambda i: -first.scores[i])[:2]
    for wanted in best:
        settings = Localization(method="two-stage", trials=2)
        found = localize(model, FACTS, settings, trial=lambda layer, wanted=wanted: float(layer == wanted))
        assert found.pick == wanted and set(found.trials) == set(best)


def test_a_shortlist_takes_no_outlier_and_no_more_than_there_are():
    found = LayerScores(
        method="lga",
        version=1,
        pick=3,
        scores=(9.0, 1.0, 3.0, 5.0, 8.0),
        kept=(False, True, True, True, False),
        pick_share=1.0,
    )
    assert shortlist(found, 2) == [3, 2] and shortlist(found, 9) == [3, 2, 1]


def test_layers_between_trials_are_drawn_but_not_picked(model):
    found = localize(model, FACTS, Localization(method="two-stage", trials=2), trial=float)
    assert found.kept == tuple(layer in found.trials for layer in range(4))
    assert found.pick == max(found.trials) and found.scores[found.pick] == max(found.scores)


def test_two_stage_without_trials_says_what_is_missing(model):
    with pytest.raises(UsageError, match="trial"):
        localize(model, FACTS, Localization(method="two-stage"))


def test_a_layer_fixed_by_hand_is_the_pick(model):
    assert localize(model, (), Localization(layer=3)).pick == 3
    with pytest.raises(UsageError, match="no such layer"):
        localize(model, (), Localization(layer=4))


def test_no_facts_is_an_error_and_few_facts_a_warning(model):
    with pytest.raises(UsageError, match="proxy facts"):
        localize(model, (), Localization())
    found = localize(model, FACTS, Localization(method="lga"))
    assert any("6 proxy facts" in warning for warning in found.warnings)


def test_the_pick_moves_when_the_facts_do_not_agree():
    agree, torn = np.array([[2.0, 2.0], [1.0, 1.0]]), np.array([[3.0, 0.0], [0.0, 2.9]])
    assert pick_share(agree, 0, fences=False, seed=0) == 1.0
    assert pick_share(torn, 0, fences=False, seed=0) < 0.9


def test_fences_keep_their_boundary_and_drop_what_is_beyond():
    # Quartiles 2 and 4, so the fences stand at 0 and 6.
    assert within_fences(np.array([0.0, 2, 3, 4, 6])).all()
    assert within_fences(np.array([-0.1, 2, 3, 4, 6.1])).tolist() == [False, True, True, True, False]
    assert int(best(np.array([1.0, 9, 3]), np.array([True, False, True]))) == 2


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_fences_always_keep_a_layer(scores):
    assert within_fences(np.array(scores)).any()


def test_known_facts_are_those_that_greedy_decoding_answers(model):
    own = greedy_answers(model, FACTS)
    for fact, answer in zip(FACTS, own, strict=True):
        knows = says(model, [fact.text], [fact.target_true])[0]
        assert knows == (answer == fact.target_true)


def test_known_facts_are_a_seeded_sample(model, monkeypatch):
    monkeypatch.setattr(
        "corrigenda.editing.localization.proxy.says", lambda _m, prompts, _a: [True] * len(prompts)
    )
    assert len(known_facts(model, FACTS, 30, 0)) == len(FACTS)
    assert known_facts(model, FACTS, 3, 1) == known_facts(model, FACTS, 3, 1)
    assert set(known_facts(model, FACTS, 3, 1)) < set(FACTS)


def test_an_answer_is_said_only_when_all_its_tokens_are(model, monkeypatch):
    """A stubborn model that says ` Paris` for ever says it once, and twice, but nothing else."""
    (paris,) = model.tokenizer(" Paris", add_special_tokens=False)["input_ids"]
    always = torch.nn.functional.one_hot(torch.tensor(paris), 400).double()
    monkeypatch.setattr(
        LanguageModel, "logits", lambda _model, hidden: always.expand(*hidden.shape[:-1], 400)
    )
    answers = ["Paris", "Paris Paris", "Paris London", "London"]
    assert says(model, ["Where?"] * 4, answers) == [True, True, False, False]
    assert greedy_answers(model, [replace(FACTS[0], target_true="Paris Paris")]) == ["Paris Paris"]


@pytest.mark.parametrize("tokens", [3, 40])
def test_edit_directions_are_those_of_the_dense_solve(tokens):
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    background = torch.randn(tokens, 12, generator=generator, dtype=torch.float64)
    spread = background.square().mean()
    moment = background.T @ background / tokens + _RIDGE * spread * torch.eye(12, dtype=torch.float64)
    dense = torch.linalg.solve(WEIGHT * moment + keys.T @ keys, keys.T).T
    torch.testing.assert_close(edit_directions(keys, background), dense)


def test_an_edit_reaches_its_own_prompt_most(model):
    found = reach(model, FACTS)
    assert ((found.own > 0) & (found.own <= 1)).all()
    assert (found.rephrase <= 1.5).all() and (found.stray >= 0).all() and (found.push >= 0).all()


def test_the_same_prompt_as_rephrase_gets_the_whole_share(model):
    echoed = [replace(fact, rephrase=fact.text) for fact in FACTS]
    found = reach(model, echoed)
    torch.testing.assert_close(found.rephrase, found.own)


def test_a_trace_whose_noise_is_nothing_has_no_effect(model, monkeypatch):
    monkeypatch.setattr("corrigenda.editing.localization.baselines._NOISE", 0.0)
    np.testing.assert_allclose(causal_tracing(model, FACTS).scores, 0.0, atol=1e-6)


def test_salem_is_the_mean_of_the_parameter_gradients(model):
    fact, layer = FACTS[0], 1
    gradient = _parameter_gradient(model, fact.text, fact.target_new, layer, "answer", "all")
    np.testing.assert_allclose(salem(model, [fact]).scores[layer], float(gradient.abs().mean()), rtol=1e-6)


def test_subjects_are_found_by_their_characters(model):
    prompts, subjects = [fact.text for fact in FACTS], [fact.subject for fact in FACTS]
    starts, ends = subject_starts(model, prompts, subjects), subject_ends(model, prompts, subjects)
    for prompt, subject, start, end in zip(prompts, subjects, starts, ends, strict=True):
        ids = model.tokenizer(prompt)["input_ids"][start : end + 1]
        assert model.tokenizer.decode(ids).strip() == subject


def test_scores_of_facts_do_not_depend_on_their_order(model):
    forward = kernel_dots(model, FACTS, [fact.target_true for fact in FACTS]).cross
    backward = kernel_dots(model, FACTS[::-1], [fact.target_true for fact in FACTS[::-1]]).cross
    np.testing.assert_allclose(forward, backward[:, ::-1], rtol=1e-9, atol=1e-12)
