"""The band: which layers it holds, what a residual costs at each, and one solve a layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import FACTS, tiny

from corrigenda.editing.background.covariance import key_covariance
from corrigenda.editing.background.fisher import output_fisher
from corrigenda.editing.solve.joint import solve_balanced, solve_targets
from corrigenda.editing.solve.scales import laid
from corrigenda.editing.solve.weight import Needs, OtherText, total_change
from corrigenda.editing.targets.band import Band, layers_around
from corrigenda.editing.targets.norm_cap import proxy_rows
from corrigenda.editing.targets.target import Target
from corrigenda.settings import SolveSettings, TargetSettings

TEXT = torch.randint(2, 400, (8, 24), generator=torch.Generator().manual_seed(0))
PLAIN = TargetSettings(products="float32")
SOLVE = SolveSettings()


@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_a_band_lies_around_its_golden_layer(n_layers: int, width: int, data: st.DataObject) -> None:
    golden = data.draw(st.integers(0, n_layers - 1))
    layers = layers_around(golden, width, n_layers)
    assert golden in layers
    assert list(layers) == list(range(layers[0], layers[-1] + 1))
    assert len(layers) <= width
    if 1 <= golden <= n_layers - 3:
        assert layers[0] >= 1 and layers[-1] <= n_layers - 3
        assert len(layers) == min(width, n_layers - 3)


def test_a_band_of_one_is_the_golden_layer() -> None:
    assert all(layers_around(golden, 1, 30) == (golden,) for golden in range(30))
    assert layers_around(10, 10, 30) == tuple(range(3, 13))


def test_scales_are_long_where_keys_are_distinct_and_other_text_is_not_sensitive() -> None:
    model, layers = tiny("llama", layers=6, dtype=torch.float32), (1, 2, 3)
    moments, fishers = key_covariance(model, layers, TEXT), output_fisher(model, layers, TEXT)
    rows = proxy_rows(model, FACTS, PLAIN)
    plain = laid(model, layers, moments, fishers, rows).scales
    product = plain[0] * plain[1] * plain[2]
    assert product == pytest.approx(1.0, abs=0.01)
    dearer = laid(model, layers, moments, fishers | {2: 4 * fishers[2]}, rows).scales
    assert dearer[1] / dearer[0] == pytest.approx(plain[1] / plain[0] / 2, rel=0.01)
    commoner = laid(model, layers, moments | {3: 4 * moments[3]}, fishers, rows).scales
    assert commoner[2] / commoner[0] == pytest.approx(plain[2] / plain[0] / 2, rel=0.01)


def test_without_sensitivity_all_layers_are_alike() -> None:
    model, layers = tiny("llama", layers=6, dtype=torch.float32), (1, 2)
    moments = key_covariance(model, layers, TEXT)
    assert laid(model, layers, moments, {}, proxy_rows(model, FACTS, PLAIN)).scales == (1.0, 1.0)
    assert laid(model, [2], moments, {}, []) == Band.single(2)


def wide(seed: int, facts: int = 6, size: float = 10.0) -> tuple[dict[str, Target], list[OtherText]]:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(facts, 3, 4, 12, generator=generator)
    residuals = torch.randn(facts, 3, 7, generator=generator)
    known = {f"{i:02}": Target(keys[i], residuals[i], 0.1, 3, needed=0.7) for i in range(facts)}
    others = []
    for scale in (0.8, 1.0, 1.3):
        seen = torch.randn(12, 60, generator=generator, dtype=torch.float64)
        weight = size * torch.randn(7, 12, generator=generator, dtype=torch.float64)
        others.append(OtherText.of(weight, seen @ seen.T / 60, scale))
    return known, others


@given(st.integers(0, 2**16))
def test_each_layer_is_solved_as_if_it_were_alone(seed: int) -> None:
    known, others = wide(seed)
    together = solve_targets(known, [other.covariance for other in others], SOLVE, weight=3.0)
    for place, other in enumerate(others):
        own = {
            name: Target(target.keys[[place]], target.residual[[place]], 0.1, 3)
            for name, target in known.items()
        }
        (alone,) = solve_targets(own, [other.covariance], SOLVE, weight=3.0)
        assert torch.equal(alone, together[place])


def test_a_share_of_all_residuals_is_that_share_of_what_a_fact_gets() -> None:
    known, _ = wide(1, facts=1)
    (target,) = known.values()
    needs = Needs.of([target], [0.8, 1.0, 1.3])
    exact = [
        torch.outer(target.residual[place].double(), target.keys[place, 0].double())
        / target.keys[place, 0].double().square().sum()
        for place in range(3)
    ]
    assert float(needs.margins(exact)) == pytest.approx(0.3)
    assert float(needs.margins([0.5 * update for update in exact])) == pytest.approx(-0.2)


def test_the_limit_holds_for_the_sum_of_the_layers() -> None:
    known, others = wide(2, facts=40, size=0.1)
    settings = SolveSettings(most_change=0.02, balance_rounds=0)
    solved = solve_balanced(known, others, settings)
    assert solved.change == pytest.approx(total_change(others, solved.updates))
    assert 0.5 * settings.most_change < solved.change <= settings.most_change
