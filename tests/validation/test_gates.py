"""What a release may cost, and who is held to account when it costs more."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_rows import BROKEN, changed, drift_row, healthy, row, table

from corrigenda.config import Gates
from corrigenda.validation.gates import culprits, verdict


def figure(rows, name, gates=None):
    return next(gate for gate in verdict(table(rows), gates or Gates()).gates if gate.gate == name)


def test_what_works_and_breaks_nothing_passes():
    result = verdict(table(healthy()), Gates())
    assert result.passed
    assert result.short == ()
    assert culprits(table(healthy()), Gates()) == ()


@pytest.mark.parametrize("failing, passed", [(0, True), (2, True), (3, False)])
def test_said_is_the_share_of_rewrites_that_the_model_says(failing, passed):
    rows = healthy(40)
    for number in range(failing):
        rows = changed(rows, "rewrite", f"c{number:03}", pass_after=False, says_after="old")
    gate = figure(rows, "said", Gates(min_said=0.95))
    assert (gate.figure, gate.passed) == (1 - failing / 40, passed)


def test_locality_drop_is_measured_against_the_base():
    """What the base failed already is no loss; what it lost and what it gained are set off."""
    rows = [row("locality", "c", i, before=i < 6, after=i in (0, 1, 2, 3, 9)) for i in range(10)]
    assert figure(rows, "locality_drop").figure == pytest.approx(0.1)


def test_perplexity_and_drift_weigh_texts_by_their_tokens():
    rows = [drift_row(0, before=-2.0, after=-2.1, kl=0.3, tokens=300), drift_row(1, tokens=100)]
    assert figure(rows, "perplexity_rise").figure == pytest.approx(math.exp(0.1 * 3 / 4) - 1)
    assert figure(rows, "drift_nats").figure == pytest.approx(0.225)


def test_fixed_probes_hold_a_release_up():
    rows = [*healthy(), *[row("fixed", "", i, after=i > 0) for i in range(10)]]
    gate = figure(rows, "fixed_drop")
    assert (gate.figure, gate.passed) == (pytest.approx(0.1), False)


def test_what_could_not_be_measured_holds_nothing_up():
    assert verdict(table([]), Gates()).passed
    assert figure(healthy(), "fixed_drop").figure is None


@pytest.mark.parametrize("after", [float("nan"), float("-inf")])
def test_a_figure_that_is_no_number_fails(after):
    rows = [*healthy(), drift_row(7, after=after, kl=float("nan"))]
    assert not figure(rows, "perplexity_rise").passed
    assert not figure(rows, "drift_nats").passed
    json.dumps(verdict(table(rows), Gates()).as_json(), allow_nan=False)


def test_a_threshold_that_is_just_met_is_met():
    rows = [row("locality", "c", i, after=i >= 2) for i in range(100)]
    assert figure(rows, "locality_drop", Gates(max_locality_drop=0.02)).passed


# Culprits -----------------------------------------------------------------------------------------------


def enough(rows, gates=None):
    return [culprit.correction_id for culprit in culprits(table(rows), gates or Gates()) if culprit.enough]


def test_who_breaks_its_own_neighbours_is_found():
    rows = healthy(200)
    poison = [f"c{number:03}" for number in (3, 50, 77, 120, 199)]
    for name in poison:
        rows = changed(rows, "locality", name, **BROKEN)
    found = culprits(table(rows), Gates(max_locality_drop=0))
    assert sorted(c.correction_id for c in found) == poison
    assert all(c.enough and c.gate == "locality_drop" and c.blame == 5 for c in found)


def test_who_breaks_the_neighbours_of_others_is_found_by_what_they_say_now():
    rows = healthy(50)
    for number in range(10, 30):
        leaked = BROKEN | {"says_after": "target 7"}
        rows = changed(rows, "locality", f"c{number:03}", **leaked)
    assert enough(rows) == ["c007"]


def test_no_more_are_named_than_the_shortfall_needs():
    rows = healthy(40)  # 200 neighbours: 4 may break
    for number in range(3):
        rows = changed(rows, "locality", f"c{number:03}", **BROKEN)
    assert len(enough(rows)) == 3
    assert len(enough(rows, Gates(max_locality_drop=0.05))) == 1


def test_damage_is_mended_before_success_is_looked_at():
    """A broken model fails at everything; to send the victims away would be unjust."""
    rows = changed(healthy(10), "locality", "c004", **BROKEN)
    for number in range(5, 10):
        rows = changed(rows, "rewrite", f"c{number:03}", pass_after=False)
    assert {c.gate for c in culprits(table(rows), Gates())} == {"locality_drop"}


def test_who_does_not_land_is_named_worst_first_and_only_so_many():
    rows = healthy(20)
    for number in (4, 8, 15):
        fields = {"pass_after": False, "logp_expected_after": -float(number)}
        rows = changed(rows, "rewrite", f"c{number:03}", **fields)
    found = culprits(table(rows), Gates(min_said=0.9))
    assert [c.correction_id for c in found] == ["c015", "c008", "c004"]
    assert [c.enough for c in found] == [True, True, False]


def test_drift_is_laid_to_the_correction_that_unsettled_most():
    rows = [*healthy(30), drift_row(9, after=-4.0, kl=2.0)]
    rows = changed(rows, "locality", "c011", logp_expected_after=-1.9)
    found = culprits(table(rows), Gates())
    assert {c.gate for c in found} == {"perplexity_rise", "drift_nats"}
    assert {c.correction_id for c in found if c.enough} == {"c011"}


@pytest.mark.parametrize("prompt", ["a\nb", "it's {0}", "100%"])
def test_the_reason_is_one_line_whatever_the_prompt(prompt):
    rows = changed(healthy(5), "locality", "c001", **BROKEN | {"prompt": prompt})
    (culprit,) = (c for c in culprits(table(rows), Gates()) if c.enough)
    assert "\n" not in culprit.reason
    assert "locality_drop" in culprit.reason


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.floats(0, 0.5))
@settings(max_examples=60, deadline=None)
def test_without_those_that_are_enough_the_gate_is_passed(verdicts, threshold):
    """Each probe stands near a correction of its own, so that to leave it out is to take it away."""
    rows = [row("locality", f"c{i}", before=b, after=a) for i, (b, a) in enumerate(verdicts)]
    rows += [row("rewrite", f"c{i}", expected=f"t{i}") for i in range(len(rows))]
    gates = Gates(max_locality_drop=threshold)
    gone = set(enough(rows, gates))
    mended = [row for row in rows if row["correction_id"] not in gone]
    total = [r for r in rows if r["kind"] == "locality"]
    lost = sum(r["pass_before"] - r["pass_after"] for r in mended if r["kind"] == "locality")
    assert lost / len(total) <= threshold + 1e-9
