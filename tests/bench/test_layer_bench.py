"""The golden-layer study: real edits, statistics that know noise, a page from results alone."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import get_args

import numpy as np
import pytest
import torch
from tiny_models import FACTS, tiny

from bench import layer_page
from bench import layer_statistics as stats
from bench import layers as bench_layers
from bench.layer_exam import Exam
from bench.layer_facts import Question, proxies
from bench.layer_statistics import ALL, overall
from bench.layer_study import EDITING, Background, LayerResult, Strength, single_updates, sweep_layer
from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.engine import find_targets
from corrigenda.settings import Localizer

STRENGTH = Strength(facts=6, seed=0, background_tokens=1_000)


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3_text"])
def model(request):
    return tiny(request.param, dtype=torch.float32)


def covariance_of(model):
    width = 4 * 32 if model.family.name == "gpt2" else 48
    draw = torch.randn(3 * width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return draw.T @ draw / len(draw)


def background_of(model):
    contexts = ("", "It is known. ")
    return Background(covariance_of(model), None, 0.75, contexts, torch.arange(2, 34).view(2, 16))


def test_a_single_edit_by_hook_is_the_edited_weight(model):
    facts, covariance, layer = proxies(FACTS), covariance_of(model), 1
    requests = [fact.request for fact in facts]
    found = find_targets(
        model, Band.single(layer), requests, ("",), EDITING.targets, norm_cap=0.75, cached={}
    )
    targets = [found.known[request.digest] for request in requests]
    u, r = single_updates(targets, covariance, 15.0, model.weight(layer))
    together = Exam(model, facts, "float32").mark(layer, (u, r))
    for i, fact in enumerate(facts):
        with model.trial({layer: torch.outer(r[i], u[i])}):
            np.testing.assert_array_equal(Exam(model, [fact], "float32").mark(layer)[0], together[i])


def test_marks_do_not_depend_on_company_and_shared_rows(model):
    facts = proxies(FACTS)
    alone = np.concatenate([Exam(model, [fact]).mark(0) for fact in facts])
    np.testing.assert_array_equal(Exam(model, facts).mark(0), alone)


def test_without_a_rival_the_answer_must_be_what_the_model_says(model):
    fact = replace(proxies(FACTS)[0], questions=(Question("Where?", "Paris London"), None, None, None, None))
    marks = Exam(model, [fact]).mark(0)
    assert marks[0, 0] in (0.0, 1.0) and np.isnan(marks[0, 1:]).all()


def test_a_sweep_leaves_the_weights_and_comes_back_from_its_file(model, tmp_path):
    before = model.weight(2).clone()
    done = sweep_layer(model, Exam(model, proxies(FACTS)), 2, background_of(model))
    done.write(tmp_path / "layer.json")
    again = LayerResult.read(tmp_path / "layer.json")
    np.testing.assert_array_equal(done.batch, again.batch)
    assert torch.equal(before, model.weight(2)) and again.layer == 2


def noise(facts=80, layers=30, seed=0):
    return (np.random.default_rng(seed).random((facts, layers)) < 0.7).astype(float)


def test_pure_noise_has_a_high_naive_oracle_and_no_cross_fitted_gap():
    assert stats.naive_oracle(noise()) > 0.95
    gap = stats.cross_fitted_gap(noise(seed=1), noise(seed=2))
    assert gap.low <= 0.02


def test_a_real_preference_of_each_fact_shows_in_the_cross_fitted_gap():
    own = np.zeros((80, 10))
    own[np.arange(80), np.arange(80) % 10] = 1.0
    assert stats.cross_fitted_gap(own, own).low > 0.5


def test_the_null_tells_a_golden_layer_from_noise():
    golden = noise()
    golden[:, 7] = 1.0
    assert stats.golden(golden) == 7 and stats.layer_null(golden)[2] < 0.01
    assert stats.layer_null(noise())[2] > 0.05


def test_regret_is_zero_at_the_golden_layer_and_the_mean_gap_for_a_random_one():
    m = np.tile([0.5, 1.0, 0.0], (20, 1))
    assert stats.regret(m, 1).value == 0 and stats.regret(m, 2).value == 1
    assert stats.regret(m, None).value == pytest.approx(0.5)


def test_sets_are_pooled_at_the_layers_that_each_of_them_has():
    a = layer_page.Outcomes([0, 2, 4], np.array([[0.0, 0.2, 0.4]]))
    b = layer_page.Outcomes([1, 2, 4], np.array([[0.1, 0.5, 0.6], [0.1, 0.7, 0.8]]))
    both = layer_page._pooled([a, b])
    assert both.layers == [2, 4]
    np.testing.assert_array_equal(both.m, [[0.2, 0.4], [0.5, 0.6], [0.7, 0.8]])


def test_overall_weighs_kinds_alike_and_leaves_out_what_was_not_asked():
    marks = np.array([[1.0, 0.0, 1.0, np.nan, np.nan], [1.0, 1.0, np.nan, 0.0, np.nan]])
    np.testing.assert_allclose(overall(marks, ALL), [0.75, 2 / 3])


def test_layers_are_swept_coarse_first_and_completely():
    order = bench_layers.coarse_first(30)
    assert sorted(order) == list(range(30)) and order[:4] == [0, 8, 16, 24]


def test_the_page_is_written_from_results_alone(model, tmp_path):
    home = tmp_path / "results" / "tiny"
    exam = Exam(model, proxies(FACTS))
    for which in ("proxy", "counterfact", "zsre"):
        for layer in (0, 2):
            done = sweep_layer(model, exam, layer, background_of(model))
            done.write(bench_layers.result(home, which, layer))
    (tmp_path / "results" / "strength.json").write_text(json.dumps(asdict(STRENGTH)))
    bench_layers.unedited(model, {"proxy": exam, "counterfact": exam}, home)
    bench_layers.localizers(
        model, FACTS, home, get_args(Localizer), torch.arange(2, 258).view(16, 16) % 60, float("inf")
    )
    text = layer_page.write(tmp_path / "results", tmp_path / "docs").read_text()
    assert "| counterfact | zsre | all facts |" in text
    assert "Regret of each localizer" in text and "brute force on proxy" in text
    assert (tmp_path / "docs" / "golden-layers-tiny.svg").exists()
