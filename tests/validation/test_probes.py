"""Which questions a release is asked, and that none of them was seen by the editor."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corrigenda.errors import CorrectionsError
from corrigenda.facts import Neighbour, ProxyFact
from corrigenda.validation.probes import probes_of, read_fixed

POOL = [
    ProxyFact(f"Town {i}", "{} lies in", f"Land {i}", "Nowhere") for i in range(20)
] + [ProxyFact(f"Poet {i}", "{} was born in", f"City {i}", "Nowhere") for i in range(20)]  # fmt: skip


def of_kind(probes, kind):
    return [probe for probe in probes if probe.kind == kind]


def test_every_active_correction_is_asked_for_and_asked_in_other_words(make_correction):
    probes = probes_of([make_correction(i) for i in range(9)])
    assert len(of_kind(probes, "rewrite")) == 9
    assert len(of_kind(probes, "paraphrase")) == len(of_kind(probes, "locality")) == 18
    assert len({probe.probe_id for probe in probes}) == len(probes)


def test_a_rewrite_competes_with_the_old_answer_and_a_neighbour_with_the_new_target(make_correction):
    near = (Neighbour("Eve was born in", "Lima"),)
    one = make_correction(0, target_old="Rome", target_new="Oslo", neighborhood=near)
    rewrite, *_, locality = (p for p in probes_of([one]) if p.kind != "question")
    assert (rewrite.prompt, rewrite.expected, rewrite.other) == (one.request.text, "Oslo", "Rome")
    assert (locality.expected, locality.other) == ("Lima", "Oslo")


def test_a_neighbour_whose_answer_is_the_new_target_has_no_rival(make_correction):
    one = make_correction(0, target_new="Oslo", neighborhood=(Neighbour("Eve was born in", "Oslo"),))
    assert of_kind(probes_of([one]), "locality")[0].other is None


def test_retractions_are_not_asked_for(make_correction):
    assert probes_of([make_correction(0, action="retract")]) == ()


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12))
@settings(max_examples=50, deadline=None)
def test_no_held_out_prompt_is_one_that_the_editor_sees(make_correction, borrowed):
    """Producers who hand in an edit prompt as paraphrase or neighbour of another change nothing."""
    corrections = []
    for mine, other in borrowed:
        text = make_correction(other).request.text
        extra = {"paraphrases": (text, "A thing said of"), "neighborhood": (Neighbour(text, "Rome"),)}
        corrections.append(make_correction(mine, **extra))
    seen = {c.request.text for c in corrections}
    held_out = {p.prompt for p in probes_of(corrections, pool=POOL) if p.kind in ("paraphrase", "locality")}
    assert not held_out & seen


def test_a_neighbour_that_paraphrases_a_correction_is_dropped(make_correction):
    one = make_correction(0)
    two = make_correction(1, neighborhood=(Neighbour(one.paraphrases[0], "Rome"), Neighbour("X is", "Y")))
    asked = [p.prompt for p in of_kind(probes_of([one, two]), "locality") if p.correction_id == "c001"]
    assert asked == ["X is"]


def test_a_correction_without_neighbours_is_lent_some_of_its_relation_first(make_correction):
    bare = make_correction(0, prompt="{} was born in", neighborhood=())
    lent = of_kind(probes_of([bare], pool=POOL, drawn=4), "locality")
    assert len(lent) == 4
    assert all(probe.prompt.startswith("Poet") and probe.expected.startswith("City") for probe in lent)


def test_other_corrections_lend_their_neighbours(make_correction):
    bare, rich = make_correction(0, neighborhood=()), make_correction(3)
    lent = [p for p in of_kind(probes_of([bare, rich]), "locality") if p.correction_id == bare.correction_id]
    assert {probe.prompt for probe in lent} == {neighbour.prompt for neighbour in rich.neighborhood}


def test_nobody_is_lent_a_prompt_about_its_own_subject(make_correction):
    bare = make_correction(0, subject="Poet 7", prompt="{} was born in", neighborhood=())
    lent = of_kind(probes_of([bare], pool=POOL[27:28], drawn=5), "locality")
    assert lent == []


@given(st.permutations(range(8)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_corrections_changes_no_probe(make_correction, order):
    def ids(numbers):
        bare = [
            make_correction(i, neighborhood=() if i % 2 else make_correction(i).neighborhood) for i in numbers
        ]
        return {probe.probe_id for probe in probes_of(bare, pool=POOL)}

    assert ids(order) == ids(range(8))


def test_a_probe_keeps_its_id_from_release_to_release(make_correction):
    alone = {probe.probe_id for probe in probes_of([make_correction(0)])}
    assert alone < {probe.probe_id for probe in probes_of([make_correction(0), make_correction(1)])}


def test_fixed_probes_are_read_from_parquet(tmp_path):
    table = pa.table({"prompt": ["2 + 2 =", "Snow is"], "expected": ["4", "white"], "other": [None, "black"]})
    pq.write_table(table, tmp_path / "fixed.parquet")
    probes = read_fixed(tmp_path / "fixed.parquet")
    assert [(p.kind, p.expected, p.other) for p in probes] == [
        ("fixed", "4", None),
        ("fixed", "white", "black"),
    ]
    assert probes_of([], fixed=probes) == probes


@pytest.mark.parametrize(
    "table", [{"prompt": ["x"]}, {"prompt": ["x"], "expected": [None]}, {"prompt": [" "], "expected": ["y"]}]
)
def test_a_probe_file_that_says_too_little_is_refused(tmp_path, table):
    pq.write_table(pa.table(table), tmp_path / "fixed.parquet")
    with pytest.raises(CorrectionsError):
        read_fixed(tmp_path / "fixed.parquet")


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "fixed.parquet").write_text("prompt,expected\n")
    with pytest.raises(CorrectionsError, match="cannot be read"):
        read_fixed(tmp_path / "fixed.parquet")
    with pytest.raises(CorrectionsError, match="cannot be read"):
        read_fixed(tmp_path / "none.parquet")
