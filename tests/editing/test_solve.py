"""The closed-form solvers: optimal, consistent with each other, and loud about bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from corrigenda.editing.solve.apply import bytes_of, edited, tensor_of
from corrigenda.editing.solve.closed_form import (
    _RIDGE,
    Moments,
    null_space_limit,
    reference_memit,
    solve_moments,
    solve_update,
)
from corrigenda.editing.solve.columns import columns_of, moments_of
from corrigenda.editing.solve.joint import PRESS, solve_balanced, solve_targets
from corrigenda.editing.solve.systems import ByMoments, InFactSpace
from corrigenda.editing.solve.weight import (
    _ENOUGH,
    HEAVIEST,
    LIGHTEST,
    NARROW,
    Needs,
    OtherText,
    Weighed,
    weigh,
)
from corrigenda.editing.targets import packs
from corrigenda.editing.targets.groups import grouped
from corrigenda.editing.targets.target import Target
from corrigenda.errors import EditError
from corrigenda.facts import EditRequest
from corrigenda.settings import SolveSettings

seeds = st.integers(0, 2**20)


def batch(seed: int, facts: int = 5, d_in: int = 12, d_out: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, residuals, covariance; float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    background = normal(d_in, 60)
    return normal(d_in, facts), normal(d_out, facts), background @ background.T / 60


def ridged(covariance: Tensor) -> Tensor:
    mean = covariance.diagonal().mean()
    return covariance + _RIDGE * mean * torch.eye(len(covariance), dtype=covariance.dtype)


def cost(update: Tensor, keys: Tensor, residuals: Tensor, covariance: Tensor, weight: float) -> float:
    """MEMIT's objective, ||D K - R||^2 + weight tr(D C D^T)."""
    missed = (update @ keys - residuals).square().sum()
    return float(missed + weight * (update @ ridged(covariance) @ update.T).trace())


@given(seeds, st.sampled_from(("memit", "emmet")))
def test_nothing_to_fix_changes_nothing(seed: int, solver: str) -> None:
    keys, residuals, covariance = batch(seed)
    found = solve_update(keys, 0 * residuals, covariance, 10.0, solver)  # type: ignore[arg-type]
    assert_close(found, torch.zeros(7, 12, dtype=torch.float64))


@given(seeds, st.floats(0.1, 1e4))
def test_no_nearby_update_is_cheaper(seed: int, weight: float) -> None:
    keys, residuals, covariance = batch(seed)
    best = solve_update(keys, residuals, covariance, weight)
    nudge = torch.randn(best.shape, generator=torch.Generator().manual_seed(seed), dtype=best.dtype)
    here = cost(best, keys, residuals, covariance, weight)
    assert here <= cost(best + 1e-3 * nudge, keys, residuals, covariance, weight) + 1e-12


@given(seeds, st.integers(1, 30), st.floats(0.1, 1e4))
def test_few_columns_and_many_give_the_same_update(seed: int, facts: int, weight: float) -> None:
    keys, residuals, covariance = batch(seed, facts)
    plain = reference_memit(keys, residuals, ridged(covariance), weight)
    assert_close(solve_update(keys, residuals, covariance, weight), plain, atol=1e-8, rtol=1e-6)


@given(seeds)
def test_emmet_meets_its_equality(seed: int) -> None:
    keys, residuals, covariance = batch(seed)
    assert_close(
        solve_update(keys, residuals, covariance, 1.0, "emmet") @ keys, residuals, atol=1e-6, rtol=1e-6
    )


@given(seeds)
def test_memit_with_little_weight_is_emmet(seed: int) -> None:
    keys, residuals, covariance = batch(seed)
    light = solve_update(keys, residuals, covariance, 1e-9)
    assert_close(light, solve_update(keys, residuals, covariance, 1.0, "emmet"), atol=1e-5, rtol=1e-5)


@given(seeds)
def test_alphaedit_touches_no_direction_that_the_background_uses(seed: int) -> None:
    keys, residuals, _ = batch(seed)
    used = torch.eye(12, 6, dtype=torch.float64)
    covariance = used @ used.T
    update = solve_update(keys, residuals, covariance, 10.0, "alphaedit")
    assert float((update @ used).norm()) < 1e-9
    assert float(update.norm()) > 0


@pytest.mark.parametrize("solver", ("memit", "emmet", "alphaedit"))
def test_no_facts_give_no_update(solver: str) -> None:
    keys, residuals, covariance = batch(0, facts=1)
    found = solve_update(keys[:, :0], residuals[:, :0], covariance, 1.0, solver)  # type: ignore[arg-type]
    assert not found.any()
    assert found.shape == (7, 12)


def test_input_that_does_not_fit_is_refused() -> None:
    keys, residuals, covariance = batch(0)
    with pytest.raises(EditError, match="do not fit"):
        solve_update(keys, residuals[:, :2], covariance, 1.0)
    with pytest.raises(EditError, match="not finite"):
        solve_update(keys * float("nan"), residuals, covariance, 1.0)
    with pytest.raises(EditError, match="positive definite"):
        solve_update(keys, residuals, -covariance, 1.0)


def targets(seed: int, facts: int = 6) -> dict[str, Target]:
    keys, residuals, _ = batch(seed, facts)
    return {
        f"{i:02}": Target(keys[:, [i]].T.float()[None], residuals[:, i].float()[None], 0.1, 3, needed=0.7)
        for i in range(facts)
    }


def other_text(seed: int, size: float = 10.0) -> OtherText:
    """Background of a map so large that no edit here changes much of what it adds, unless `size` is small."""
    generator = torch.Generator().manual_seed(seed)
    return OtherText.of(size * torch.randn(7, 12, generator=generator, dtype=torch.float64), batch(seed)[2])


@given(seeds, st.floats(0.1, 1e4))
def test_moments_give_the_update_that_columns_give(seed: int, weight: float) -> None:
    keys, residuals, covariance = batch(seed)
    parts = ((keys[:, :2], residuals[:, :2]), (keys[:, 2:], residuals[:, 2:]))
    first, second = (Moments(k @ k.T, r @ k.T) for k, r in parts)
    moments = first + second
    plain = solve_update(keys, residuals, covariance, weight)
    assert_close(solve_moments(moments, covariance, weight), plain, atol=1e-8, rtol=1e-6)
    with pytest.raises(EditError, match="each column"):
        solve_moments(moments, covariance, weight, "emmet")


def test_facts_that_get_too_little_are_pressed_until_they_get_enough() -> None:
    known, other = targets(1), other_text(1)
    ordered = [known[name] for name in sorted(known)]
    settings = SolveSettings(balance_rounds=12, covariance_weight=30.0)
    before = (
        Needs.of(ordered, [1.0]).margins(solve_targets(known, [other.covariance], settings, weight=30.0)) < 0
    )
    solved = solve_balanced(known, [other], settings)
    assert bool(before.any())
    assert solved.short == 0
    assert 0 < solved.rounds <= 12
    assert PRESS > 1


def test_the_weight_is_the_largest_at_which_most_facts_get_what_they_need() -> None:
    known, other = targets(4, facts=8), other_text(4)
    solved = solve_balanced(known, [other], SolveSettings(balance_rounds=0))
    assert solved.short <= (1 - _ENOUGH) * 8
    heavier = solve_balanced(
        known, [other], SolveSettings(balance_rounds=0, covariance_weight=solved.weight * 10)
    )
    assert heavier.short > (1 - _ENOUGH) * 8


def test_facts_that_need_nothing_take_the_heaviest_weight_and_those_that_need_all_the_lightest() -> None:
    known, other = targets(4, facts=8), other_text(4)
    easy = {name: replace(target, needed=-1.0) for name, target in known.items()}
    assert solve_balanced(easy, [other], SolveSettings()).weight == pytest.approx(HEAVIEST, rel=2 * NARROW)
    greedy = {name: replace(target, needed=1.5) for name, target in known.items()}
    assert solve_balanced(greedy, [other], SolveSettings()).weight == pytest.approx(LIGHTEST, rel=2 * NARROW)


@pytest.mark.parametrize(("facts", "size"), ((8, 10.0), (40, 0.1), (40, 0.3)))
def test_the_search_for_a_weight_takes_few_solves(
    facts: int, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[float] = []

    def counted(*given: Any) -> Weighed:
        weights.append(given[-1])
        return weigh(*given)

    monkeypatch.setattr("corrigenda.editing.solve.weight.weigh", counted)
    known = targets(3, facts=facts)
    found = solve_balanced(known, [other_text(3, size)], SolveSettings(balance_rounds=0))
    assert found.weight in weights
    assert len(weights) <= 6


@given(seeds, st.integers(0, 4))
def test_where_not_all_facts_have_room_the_weight_is_the_lightest_that_changes_no_more_than_is_allowed(
    seed: int, rounds: int
) -> None:
    known, other = targets(seed, facts=40), other_text(seed, size=0.1)
    settings = SolveSettings(balance_rounds=rounds)
    solved = solve_balanced(known, [other], settings)
    assert solved.change == pytest.approx(other.change(*solved.updates))
    assert solved.change <= settings.most_change
    assert solved.short > (1 - _ENOUGH) * 40
    assert solved.rounds <= rounds
    lighter = settings.model_copy(update={"covariance_weight": solved.weight * 0.9, "balance_rounds": 0})
    assert solve_balanced(known, [other], lighter).change > settings.most_change


def test_a_weight_that_was_asked_for_is_taken_and_pressing_stops_before_too_much_is_changed() -> None:
    known, other = targets(1, facts=12), other_text(1, size=3.0)
    asked = SolveSettings(covariance_weight=30.0, balance_rounds=0)
    plain = solve_balanced(known, [other], asked)
    pressed = solve_balanced(
        known, [other], asked.model_copy(update={"balance_rounds": 8, "most_change": 10.0})
    )
    assert plain.weight == pressed.weight == 30.0
    assert plain.change < pressed.change
    between = (plain.change + pressed.change) / 2
    stopped = solve_balanced(
        known, [other], asked.model_copy(update={"balance_rounds": 8, "most_change": between})
    )
    assert plain.change < stopped.change <= between
    assert 0 < stopped.rounds < pressed.rounds


def test_the_change_is_the_mean_square_over_the_text_that_the_covariance_is_of() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(12, 50, generator=generator, dtype=torch.float64)
    weight, update = torch.randn(2, 7, 12, generator=generator, dtype=torch.float64)
    other = OtherText.of(weight, keys @ keys.T / 50)
    wanted = (update @ keys).square().sum() / (weight @ keys).square().sum()
    assert other.change(update) == pytest.approx(float(wanted))


def test_alphaedit_finds_its_weight_and_keeps_the_limit() -> None:
    known, other = targets(4, facts=40), other_text(4, size=0.1)
    settings = SolveSettings(solver="alphaedit", balance_rounds=0)
    solved = solve_balanced(known, [other], settings)
    assert 0 < solved.change <= settings.most_change
    lighter = settings.model_copy(update={"covariance_weight": solved.weight * 0.9})
    assert solve_balanced(known, [other], lighter).change >= solved.change
    few, much = targets(4, facts=3), other_text(4)
    assert solve_balanced(few, [much], settings).short <= (1 - _ENOUGH) * 3


@given(seeds)
def test_alphaedit_has_a_null_space_up_to_its_limit_and_none_above(seed: int) -> None:
    keys, residuals, covariance = batch(seed)
    limit = null_space_limit(covariance)
    assert solve_update(keys, residuals, covariance, limit * 0.999, "alphaedit").abs().sum() > 0
    with pytest.raises(EditError, match="no null space"):
        solve_update(keys, residuals, covariance, limit * 1.001, "alphaedit")


def test_what_is_pressed_is_what_columns_with_that_pressure_give() -> None:
    known, covariance = targets(5), batch(5)[2]
    ordered = [known[name] for name in sorted(known)]
    pressure = torch.tensor([1.0, 2.0, 4.0, 1.0, 2.0, 1.0], dtype=torch.float64)
    plain = solve_update(*columns_of(ordered, pressure), covariance, 10.0)
    assert_close(solve_moments(moments_of(ordered, pressure), covariance, 10.0), plain)


def test_requests_that_are_read_in_the_same_words_are_one_group() -> None:
    born, works = EditRequest("Ada", "{} was born in", "Rome"), EditRequest("Ada", "{} works as a", "baker")
    other = EditRequest("Ada", "The mother of {} is", "Eve")
    groups = grouped([works, other, born, works])
    assert grouped([born, works, other]) == groups
    assert sorted(len(group.requests) for group in groups) == [1, 2]
    assert {group.digest for group in groups} >= {other.digest}
    assert not {group.digest for group in groups} & {born.digest, works.digest}


def test_the_order_of_facts_does_not_change_a_bit() -> None:
    known, covariance = targets(2), batch(2)[2]
    shuffled = dict(reversed(known.items()))
    (one,) = solve_targets(known, [covariance], SolveSettings(), weight=10.0)
    (other,) = solve_targets(shuffled, [covariance], SolveSettings(), weight=10.0)
    assert torch.equal(one, other)


def test_a_pack_gives_its_targets_back_and_a_damaged_one_gives_none() -> None:
    known = targets(3)
    body = packs.pack(known)
    assert body == packs.pack(dict(reversed(known.items())))
    found = packs.unpack([body[: len(body) // 2], b"", body])
    assert found.keys() == known.keys()
    assert all(torch.equal(found[name].residual, known[name].residual) for name in known)
    assert packs.unpack([body[:40]]) == {}


@pytest.mark.parametrize(("name", "dtype"), (("F32", torch.float32), ("BF16", torch.bfloat16)))
def test_the_published_tensor_is_rounded_once(name: str, dtype: torch.dtype) -> None:
    base = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    update = torch.full((3, 4), 1e-3, dtype=torch.float64)
    new = edited(base, update, stored_transposed=True)
    assert torch.equal(new, (base.double() + 1e-3).to(dtype))
    assert torch.equal(tensor_of(bytes_of(new), name, (4, 3)), new)
    with pytest.raises(EditError, match="does not fit"):
        edited(base, update, stored_transposed=False)
    with pytest.raises(EditError, match="range"):
        edited(base, update * float("inf"), stored_transposed=True)
    with pytest.raises(EditError, match="dtype"):
        tensor_of(b"", "I8", (0,))


@given(seeds, st.floats(0.01, 1e4))
def test_the_space_of_the_facts_gives_the_update_of_the_normal_equations(seed: int, weight: float) -> None:
    known, other = targets(seed, facts=5), other_text(seed)
    ordered = [known[name] for name in sorted(known)]
    pressure = torch.tensor([1.0, 2.0, 1.0, 4.0, 8.0], dtype=torch.float64)
    few = InFactSpace.of(ordered, 0, other.factor)
    many = ByMoments.of(ordered, 0, other.covariance, "memit")
    for a, b in ((few, many), (few.pressed(pressure), many.pressed(pressure))):
        assert_close(a.solve(weight), b.solve(weight), atol=1e-9, rtol=1e-7)
    keys, residuals = columns_of(ordered, pressure)
    plain = reference_memit(keys, residuals, ridged(other.covariance), weight)
    assert_close(few.pressed(pressure).solve(weight), plain, atol=1e-9, rtol=1e-7)
