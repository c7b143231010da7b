"""What the ledger promises: states follow from what was said and when, never from how it arrived."""

from __future__ import annotations

from datetime import timedelta
from io import BytesIO
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from queue_rows import T0, correction

from corrigenda.errors import CorruptBlobError, NotFoundError
from corrigenda.facts import Correction, Neighbour
from corrigenda.storage.corrections import ledger
from corrigenda.storage.corrections.ledger import Ledger
from corrigenda.storage.corrections.rules import STATES, normalised
from corrigenda.storage.corrections.schemas import LATER, Arrival

quick = settings(deadline=None, derandomize=True, max_examples=150)


def later(seconds: int, **changed: Any) -> Correction:
    return correction(asserted_at=T0 + timedelta(seconds=seconds), **changed)


def retract(seconds: int, correction_id: str = "mayor-1") -> Correction:
    return later(seconds, correction_id=correction_id, action="retract", subject="", prompt="", target_new="")


def told(*corrections: Correction) -> Ledger:
    return ledger.merge(ledger.empty(), corrections)[0]


def states(found: Ledger) -> list[tuple[str, str]]:
    """(target or action, state) of each entry, in the ledger's order."""
    return [(e.correction.target_new or e.correction.action, e.state) for e in found.entries]


said = st.builds(
    later,
    st.integers(0, 4),
    correction_id=st.sampled_from("abc"),
    action=st.sampled_from(["upsert", "upsert", "retract"]),
    subject=st.sampled_from(["Paris", "PARIS ", "Rome"]),
    target_new=st.sampled_from(["X", "Y"]),
    source=st.sampled_from([None, "s"]),
)
arrivals = st.lists(st.builds(Arrival, said, st.sampled_from(["", "f1", "f2"])), max_size=9)


@quick
@given(arrivals, st.randoms(use_true_random=False), st.integers(1, 4))
def test_neither_order_nor_nights_nor_repeats_change_a_byte(
    batch: list[Arrival], random: Any, nights: int
) -> None:
    shuffled = batch + batch[:2]
    random.shuffle(shuffled)
    spread = ledger.empty()
    for night in range(nights):
        spread, _ = ledger.merge(spread, shuffled[night::nights])
    assert spread.to_parquet() == ledger.merge(ledger.empty(), batch)[0].to_parquet()


@quick
@given(arrivals)
def test_states_are_those_of_the_plain_reading_of_the_rules(batch: list[Arrival]) -> None:
    found, _ = ledger.merge(ledger.empty(), batch)
    assert {c.correction_id: c for c in found.active} == reference_active([a.correction for a in batch])


def reference_active(batch: list[Correction]) -> dict[str, Correction]:
    """Active corrections by id, as one would work them out by hand; provenance is left at the smallest."""

    def age(one: Correction) -> Any:
        return one.asserted_at, one.action == "retract", ledger.digest_of(one.content)

    smallest = sorted(batch, key=lambda one: one.source or "", reverse=True)
    contents = {ledger.digest_of(one.content): one for one in smallest}.values()
    counting = {}
    for one in sorted(contents, key=age):
        counting[one.correction_id] = one
    upserts = [one for one in counting.values() if one.action == "upsert"]
    return {
        one.correction_id: next(c for c in batch if c.content == one.content and _least(c, batch))
        for one in upserts
        if age(one) == max(age(other) for other in upserts if _slot(other) == _slot(one))
    }


def _slot(one: Correction) -> tuple[str, str]:
    return one.subject.strip().lower(), one.prompt


def _least(one: Correction, batch: list[Correction]) -> bool:
    return all((one.source or "") <= (c.source or "") for c in batch if c.content == one.content)


@quick
@given(arrivals, arrivals)
def test_every_row_ends_in_exactly_one_state_and_merging_twice_is_merging_once(
    one: list[Arrival], two: list[Arrival]
) -> None:
    first, _ = ledger.merge(ledger.empty(), one)
    found, report = ledger.merge(first, two)
    assert len({e.digest for e in found.entries}) == len(found.entries) == sum(found.counts.values())
    assert {ledger.digest_of(a.correction.content) for a in one + two} == {e.digest for e in found.entries}
    assert report.new + report.repeats == len(two)
    again, second = ledger.merge(found, two)
    assert again == found
    assert (second.new, second.changed) == (0, False)


@quick
@given(arrivals, st.data())
def test_a_snapshot_reads_back_as_itself(batch: list[Arrival], data: st.DataObject) -> None:
    found, _ = ledger.merge(ledger.empty(), batch)
    ids = [one.correction_id for one in found.active]
    if ids:
        out = data.draw(st.lists(st.sampled_from(ids), unique=True))
        found = ledger.quarantine(found, out, "locality", {"drop": 0.5, "prompts": ["é", "🙂"]})
    assert ledger.from_parquet(found.to_parquet()) == found
    assert ledger.from_parquet(found.to_parquet()).to_parquet() == found.to_parquet()


def test_a_new_version_supersedes_the_old_one() -> None:
    found = told(later(1, target_new="new"), later(0, target_new="old"))
    assert states(found) == [("old", "superseded"), ("new", "active")]
    assert found.entries[0].by == found.entries[1].digest
    assert found.entries[0].why == "new_version"


def test_the_later_assertion_holds_a_slot_whatever_its_id() -> None:
    found = told(later(5, correction_id="b", target_new="B"), later(9, correction_id="a", target_new="A"))
    assert states(found) == [("A", "active"), ("B", "superseded")]
    assert found.entries[1].why == "same_slot"


def test_a_tie_is_broken_by_content_not_by_order() -> None:
    rivals = [later(0, correction_id="a", target_new="A"), later(0, correction_id="b", target_new="B")]
    assert told(*rivals) == told(*reversed(rivals))
    assert len(told(*rivals).active) == 1


def test_another_prompt_about_the_same_subject_is_another_fact() -> None:
    assert len(told(correction(), correction(correction_id="b", prompt="{} is led by")).active) == 2


def test_a_retract_takes_the_correction_out_and_stands_beside_it() -> None:
    found = told(correction(), retract(1))
    assert states(found) == [("Ada Quimby", "retracted"), ("retract", "retracted")]
    assert found.active == ()


def test_a_retract_that_comes_before_its_correction_waits_for_it() -> None:
    waiting, report = ledger.merge(ledger.empty(), [retract(1)])
    assert report.unknown_retracts == ("mayor-1",)
    found, report = ledger.merge(waiting, [correction()])
    assert found == told(correction(), retract(1))
    assert not report.changed


def test_an_older_retract_does_not_take_back_a_newer_version() -> None:
    found = told(correction(target_new="old"), retract(1), later(2, target_new="new"))
    assert states(found) == [("old", "superseded"), ("retract", "superseded"), ("new", "active")]


def test_at_the_same_instant_a_retract_is_the_later_one() -> None:
    assert told(correction(), retract(0)).active == ()


def test_retracting_the_holder_gives_the_slot_back_as_if_it_had_never_been_said() -> None:
    first = correction(correction_id="a", target_new="A")
    found = told(first, later(1, correction_id="b", target_new="B"), retract(2, "b"))
    assert found.active == told(first).active == (first,)


def test_after_retracting_everything_the_active_set_is_empty() -> None:
    found = told(*(later(i, correction_id=f"c{i}", subject=f"S{i % 3}") for i in range(9)))
    after, report = ledger.merge(found, [retract(100, f"c{i}") for i in range(9)])
    assert after.active == ()
    assert len(report.deactivated) == 3
    assert not report.activated


def test_contradictions_of_one_batch_are_reported_with_the_winner() -> None:
    _, report = ledger.merge(
        ledger.empty(),
        [
            later(0, correction_id="a", target_new="A"),
            later(1, correction_id="b", subject="SPRINGFIELD", target_new="B"),
        ],
    )
    (clash,) = report.contradictions
    assert (clash.correction_ids, clash.winner, clash.subject) == (("a", "b"), "b", "SPRINGFIELD")


def test_one_id_with_two_answers_at_one_instant_is_a_contradiction_but_a_new_version_is_none() -> None:
    clash = ledger.merge(ledger.empty(), [correction(target_new="A"), correction(target_new="B")])[1]
    assert [c.correction_ids for c in clash.contradictions] == [("mayor-1",)]
    fine = ledger.merge(ledger.empty(), [correction(target_new="A"), later(1, target_new="B")])[1]
    assert fine.contradictions == ()


def test_an_exact_repeat_is_no_change_even_from_another_source() -> None:
    found, report = ledger.merge(
        told(correction()), [correction(source="elsewhere", reason="again", priority=9)]
    )
    assert (report.new, report.repeats, report.changed) == (0, 1, False)
    assert len(found.entries) == 1


class TestQuarantine:
    def test_a_quarantined_correction_stays_out_until_a_new_version_comes(self) -> None:
        out = ledger.quarantine(told(correction()), ["mayor-1"], "locality", {"drop": 0.2})
        assert out.active == ()
        assert ledger.merge(out, [correction(source="again")])[0].active == ()
        back, report = ledger.merge(out, [later(1)])
        assert back.active == (later(1),)
        assert report.activated == ("mayor-1",)

    def test_its_evidence_is_kept(self) -> None:
        out = ledger.quarantine(told(correction()), ["mayor-1"], "locality", {"drop": 0.2})
        (entry,) = ledger.from_parquet(out.to_parquet()).entries
        assert entry.mark is not None
        assert (entry.state, entry.why, entry.mark.evidence) == ("quarantined", "locality", {"drop": 0.2})

    def test_it_still_holds_its_slot_because_what_it_replaced_is_out_of_date(self) -> None:
        found = told(
            correction(correction_id="a", target_new="A"), later(1, correction_id="b", target_new="B")
        )
        assert states(ledger.quarantine(found, ["b"], "drift")) == [("A", "superseded"), ("B", "quarantined")]

    def test_it_can_be_retracted(self) -> None:
        out = ledger.quarantine(told(correction()), ["mayor-1"], "drift")
        assert states(ledger.merge(out, [retract(1)])[0])[0] == ("Ada Quimby", "retracted")

    def test_what_is_not_active_cannot_be_sent_out(self) -> None:
        with pytest.raises(NotFoundError, match="nobody"):
            ledger.quarantine(told(correction()), ["nobody", "mayor-1"], "drift")

    def test_a_rejected_correction_is_out_in_the_same_way(self) -> None:
        out = ledger.reject(told(correction()), ["mayor-1"], "no_subject_token")
        assert out.counts == dict.fromkeys(STATES, 0) | {"rejected": 1}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Straße", "STRASSE"),
        ("ﬁsh", "fish"),
        ("Ａda", "ada"),
        ("A  b\u00a0c", " a b c"),
        ("é", "e\u0301"),
        ("القدس\u200f", "القدس"),
        ("\u2067ירושלים\u2069", "ירושלים"),
        ("①", "1"),
        ("İstanbul", "i̇stanbul"),
    ],
)
def test_spellings_that_mean_one_subject_share_a_slot(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"), [("é", "e"), ("🙂", "🙃"), ("می\u200cخواهم", "میخواهم"), ("A", "Α")]
)
def test_spellings_that_mean_two_subjects_do_not(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


@given(st.text(max_size=12))
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_consumed_files_are_a_set() -> None:
    assert ledger.consumed_to_parquet(["b", "a", "b"]) == ledger.consumed_to_parquet(["a", "b"])
    assert ledger.consumed_from_parquet(ledger.consumed_to_parquet(["b", "a"])) == {"a", "b"}


@pytest.mark.parametrize("body", [b"", b"PAR1", ledger.consumed_to_parquet(["a"])])
def test_bytes_that_are_no_ledger_are_refused(body: bytes) -> None:
    with pytest.raises(CorruptBlobError):
        ledger.from_parquet(body)


def test_a_ledger_from_before_some_columns_came_is_read_as_if_they_were_empty() -> None:
    now = told(correction(paraphrases=("p",)), later(1, target_new="Seymour"))
    table = pq.read_table(BytesIO(now.to_parquet())).drop_columns(list(LATER))
    sink = BytesIO()
    pq.write_table(table, sink)
    then = ledger.from_parquet(sink.getvalue())
    assert then == now
    assert not ledger.merge(then, [correction(paraphrases=("p",))])[1].new


def test_what_came_later_makes_a_new_version_once_it_is_given() -> None:
    bare = told(correction())
    for more in ({"question": "Who?"}, {"aliases": ("Quimby",)}, {"entails": (Neighbour("q", "a"),)}):
        assert ledger.merge(bare, [correction(**more)])[1].new == 1


def test_a_version_is_named_by_every_column_but_its_provenance() -> None:
    """Written out, so that an upgrade that would give all stored versions new names is noticed."""
    one = correction(
        target_old="x",
        paraphrases=("p",),
        neighborhood=(Neighbour("q", "a"),),
        source="s",
        reason="r",
        priority=1,
    )
    assert one.content == {
        "correction_id": "mayor-1",
        "action": "upsert",
        "subject": "Springfield",
        "prompt": "The mayor of {} is",
        "target_new": "Ada Quimby",
        "target_old": "x",
        "paraphrases": ("p",),
        "neighborhood": ({"prompt": "q", "answer": "a"},),
        "asserted_at": "2026-01-01T00:00:00+00:00",
    }
    assert (
        one.content == correction(**{name: getattr(one, name) for name in one.content}, model="other").content
    )
