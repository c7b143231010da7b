"""Who is sent out is decided by what comes right without them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrigenda.validation.gates import Culprit
from corrigenda.validation.leave_out import FAR_ABOVE, MOST_TRIED, Damage, convict, suspects

PROBES = 1_000


def accused(name, *, gate="locality_drop", blame=1.0, enough=True):
    return Culprit(name, gate, blame, enough, f"near {name}", "wrong")


def world(breakers, gate="locality_drop"):
    """`breakers`: probe -> the corrections each of which breaks it as long as it is in."""

    def measure(left_out):
        broken = frozenset(probe for probe, by in breakers.items() if set(by) - left_out)
        return Damage({gate: len(broken) / PROBES}, broken)

    return measure


def gone(found):
    return [one.culprit.correction_id for one in found]


def test_an_innocent_suspect_is_let_back_in():
    measure = world({f"p{i}": ["guilty"] for i in range(30)})
    tried = [accused("innocent"), accused("guilty"), accused("other")]
    (found,) = convict(tried, measure, {"locality_drop": 0.02}, 100)
    assert found.culprit.correction_id == "guilty"
    assert len(found.breaks) == 30
    assert (found.without["locality_drop"], found.with_it["locality_drop"]) == (0.0, 0.03)
    assert "30 came right again" in found.reason


def test_two_that_do_the_same_harm_do_not_shield_one_another():
    """To leave either out alone brings nothing back."""
    measure = world({f"p{i}": ["one", "twin"] for i in range(30)})
    found = convict([accused("one"), accused("twin")], measure, {"locality_drop": 0.02}, 100)
    assert sorted(gone(found)) == ["one", "twin"]


def test_only_the_worst_go_when_the_gate_bears_the_others():
    harms = {"a": 12, "b": 9, "c": 8}
    measure = world({f"{name}{i}": [name] for name, n in harms.items() for i in range(n)})
    tried = [accused(name, blame=n) for name, n in harms.items()]
    assert gone(convict(tried, measure, {"locality_drop": 0.018}, 10)) == ["a"]


def test_who_does_far_more_harm_than_others_goes_even_where_there_is_room():
    """Ten of a hundred corrections break one neighbour each, two break twenty each."""
    breakers = {f"mild{i}": [f"m{i}"] for i in range(10)}
    breakers |= {f"{name}{i}": [name] for name in ("bad", "worse") for i in range(20)}
    tried = [accused(name) for name in ("bad", "worse", "m1", "m2")]
    found = convict(tried, world(breakers), {"locality_drop": 0.035}, 100)
    assert sorted(gone(found)) == ["bad", "worse"]
    assert FAR_ABOVE * 50 / 100 < 20


def test_nobody_goes_for_what_nobody_did():
    """The harm is there with and without the suspects."""
    measure = world({f"p{i}": ["somebody else"] for i in range(50)})
    assert convict([accused("a"), accused("b")], measure, {"locality_drop": 0.01}, 100) == ()


@pytest.mark.parametrize("gate", ["perplexity_rise", "drift_nats"])
def test_drift_is_laid_to_those_without_whom_it_falls(gate):
    shares = {"loud": 0.03, "quiet": 0.0001}

    def measure(left_out):
        return Damage({gate: 0.01 + sum(v for n, v in shares.items() if n not in left_out)}, frozenset())

    (found,) = convict([accused(n, gate=gate) for n in shares], measure, {gate: 0.02}, 10)
    assert found.culprit.correction_id == "loud"
    assert "without it" in found.reason


sets = st.lists(st.sets(st.sampled_from("abcdef"), min_size=1, max_size=3), max_size=40)


@given(sets, st.floats(0, 0.04))
def test_without_the_convicted_the_gate_holds_or_nothing_more_is_to_be_had(breakers, threshold):
    named = {f"p{i}": sorted(by) for i, by in enumerate(breakers)}
    measure = world(named)
    tried = [accused(name) for name in "abcd"]
    found = frozenset(gone(convict(tried, measure, {"locality_drop": threshold}, 1_000)))
    least = measure(frozenset("abcd")).figures["locality_drop"]
    assert measure(found).figures["locality_drop"] <= max(threshold, least * 1.05)


@given(sets)
def test_whoever_goes_breaks_something_or_is_measured_to(breakers):
    measure = world({f"p{i}": sorted(by) for i, by in enumerate(breakers)})
    for one in convict([accused(name) for name in "abcd"], measure, {"locality_drop": 0.0}, 10):
        assert one.breaks or one.with_it != one.without


def test_twice_as_many_are_tried_as_the_rows_call_enough():
    named = [accused(f"c{i:02}", enough=i < 3) for i in range(40)]
    assert [c.correction_id for c in suspects(named)] == [f"c{i:02}" for i in range(6)]
    assert len(suspects([accused(f"c{i}") for i in range(99)])) == MOST_TRIED


def test_the_evidence_tells_what_came_back():
    measure = world({"p0": ["guilty"], "p1": ["guilty"], "p2": ["guilty"]})
    (found,) = convict([accused("guilty")], measure, {"locality_drop": 0.0}, 5)
    told = {name: {"prompt": f"ask {name}", "expected": "yes"} for name in ("p0", "p1", "p2")}
    evidence = found.evidence(told)
    assert [row["prompt"] for row in evidence["came_back"]] == ["ask p0", "ask p1", "ask p2"]
    assert evidence["left_out"] == {"locality_drop": 0.0}
    assert evidence["gate"] == "locality_drop"
