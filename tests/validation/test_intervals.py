"""How sure a figure is: never surer than the corrections that it was measured on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corrigenda.storage.objects.local import LocalStore
from corrigenda.validation.intervals import of_mean, of_share, wilson
from corrigenda.validation.results import connect


@pytest.mark.parametrize(
    "passed, asked, low, high",
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (64, 64, 0.9434, 1.0), (37, 64, 0.4561, 0.6914)],
)
def test_wilsons_interval_is_the_textbooks(passed, asked, low, high):
    assert wilson(passed / asked, asked) == pytest.approx((low, high), abs=2e-4)
    each = np.array([1.0] * passed + [0.0] * (asked - passed))
    assert of_share(each, np.ones(asked)) == pytest.approx((low, high), abs=1e-2)


@given(st.lists(st.integers(0, 1), min_size=4, max_size=40), st.integers(2, 10))
def test_probes_that_stand_and_fall_together_are_one_observation(outcomes, copies):
    each = np.array(outcomes, dtype=np.float64)
    alone = of_share(each, np.ones(len(each)))
    together = of_share(each * copies, np.full(len(each), float(copies)))
    assert together == pytest.approx(alone)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_the_figure_lies_within_its_interval(parts):
    part, whole = np.array(parts, dtype=np.float64), np.full(len(parts), 5.0)
    figure = part.sum() / whole.sum()
    for low, high in (of_share(part, whole), of_mean(part, whole)):
        assert low - 1e-9 <= figure <= high + 1e-9


def test_resampling_is_the_same_every_time_and_covers_what_it_should():
    random = np.random.default_rng(3)
    inside = 0
    for _ in range(100):
        draws = random.normal(0.1, 1.0, 60)
        low, high = of_mean(draws, np.ones(60))
        inside += low <= 0.1 <= high
        assert of_mean(draws, np.ones(60)) == (low, high)
    assert 0.90 <= inside / 100 <= 0.99


def test_nothing_is_sure_of_one_text_or_of_what_is_no_number():
    assert of_mean(np.array([1.0]), np.ones(1)) is None
    assert of_mean(np.array([1.0, np.nan]), np.ones(2)) is None


def test_sql_has_the_same_interval(tmp_path):
    store = LocalStore.open(tmp_path / "store", create=True)
    with connect(store) as connection:
        asked = "select wilson_low(37, 64), wilson_high(37, 64), wilson_low(0, 0)"
        (found,) = connection.sql(asked).fetchall()
    assert found[:2] == pytest.approx(tuple(wilson(37 / 64, 64)), abs=1e-6)
    assert found[2] is None
