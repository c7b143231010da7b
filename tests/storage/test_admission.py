"""What handing in would do to what is known: repeats, retracts that stay, contradictions, and what is said
of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from queue_rows import T0, correction

from corrigenda.facts import Correction
from corrigenda.storage.corrections import ledger
from corrigenda.storage.corrections.admission import Admitted, Known, admit, probes
from corrigenda.storage.corrections.schemas import table_of

HOUR = timedelta(hours=1)


def handed_in(
    rows: Sequence[Correction], told: Sequence[Correction], *, undated: datetime | None = None
) -> Admitted:
    known = {"*": [Known(told)]}
    return admit(table_of(rows), range(len(rows)), known, undated=undated, now=T0 + 9 * HOUR)


def said(**changed: Any) -> Correction:
    return correction(**({"model": "*"} | changed))


def test_a_nightly_export_without_times_says_only_what_is_new() -> None:
    tonight = T0 + HOUR
    told = [said(), said(correction_id="b", subject="Orr")]
    export = [
        said(asserted_at=tonight),
        said(correction_id="b", subject="Orr", target_new="Bea", asserted_at=tonight),
        said(correction_id="c", subject="Velm", asserted_at=tonight),
    ]
    found = handed_in(export, told, undated=tonight)
    assert (found.good["correction_id"].to_pylist(), found.repeats) == (["b", "c"], 1)
    assert found.rejects == ()


def test_an_export_without_times_undoes_no_retract() -> None:
    tonight = T0 + 2 * HOUR
    told = [said(), said(action="retract", asserted_at=T0 + HOUR)]
    found = handed_in([said(asserted_at=tonight)], told, undated=tonight)
    assert found.good.num_rows == 0
    assert [(row["row"], row["reason"]) for row in found.rejects] == [(0, "retracted")]
    assert "the retract is of 2026-01-01 01:00" in found.rejects[0]["remedy"]


def test_a_row_with_a_later_time_of_its_own_brings_it_back_and_that_is_said() -> None:
    told = [said(), said(action="retract", asserted_at=T0 + HOUR)]
    found = handed_in([said(asserted_at=T0 + 2 * HOUR)], told)
    assert found.good.num_rows == 1
    assert any("after it was retracted" in warning for warning in found.warnings)


def test_what_every_model_knows_is_a_repeat_and_what_one_does_not_know_is_not() -> None:
    at = T0 + HOUR
    known = {"*": [Known([said()]), Known([])]}
    found = admit(table_of([said(asserted_at=at)]), [0], known, undated=at, now=at)
    assert (found.good.num_rows, found.repeats) == (1, 0)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"asserted_at": T0 + timedelta(days=30)}, "in the future"),
        ({"subject": "Orr"}, "another fact under its id"),
        ({"prompt": "The clerk of {} is"}, "another fact under its id"),
        ({"correction_id": "other", "target_new": "Bea"}, "contradicts mayor-1"),
        ({"target_new": "Bea", "asserted_at": T0 - HOUR}, "will not hold"),
        ({"prompt": "Who is the mayor of {}?"}, "a question"),
        ({"prompt": "谁是{}的市长？"}, "a question"),
        ({"target_new": "Ada Quimby."}, "a full stop"),
        ({"target_new": "She is the mayor."}, "a full stop"),
    ],
)
def test_what_may_not_be_meant_is_said(row: dict[str, Any], says: str) -> None:
    found = handed_in([said(**({"asserted_at": T0 + HOUR} | row))], [said()])
    assert any(says in warning for warning in found.warnings), found.warnings


@pytest.mark.parametrize("target", ["Velm, T.C.", "Acme Inc.", "U.S.", "Ada Quimby", "1.5", "J. R."])
def test_a_full_stop_that_belongs_to_its_word_is_not_asked_about(target: str) -> None:
    assert handed_in([said(target_new=target)], []).warnings == ()


def test_contradictions_within_a_file_are_said() -> None:
    found = handed_in([said(correction_id="a"), said(correction_id="b", target_new="Bea")], [])
    assert any("want different answers" in warning for warning in found.warnings)


def test_probes_are_counted() -> None:
    rows = table_of([said(paraphrases=("a", "b")), said(correction_id="b")])
    assert probes(rows) == {
        "paraphrases": {"probes": 2, "without": 1},
        "neighborhood": {"probes": 0, "without": 2},
    }


class TestLedger:
    def test_equal_content_at_another_time_changes_no_active_set(self) -> None:
        kept, _ = ledger.merge(ledger.empty(), [said()])
        _, report = ledger.merge(kept, [said(asserted_at=T0 + HOUR)])
        assert (report.new, report.changed) == (1, False)

    def test_a_run_says_what_came_back_and_which_ids_stand_for_another_fact(self) -> None:
        kept, _ = ledger.merge(ledger.empty(), [said(), said(correction_id="b", subject="Orr")])
        kept, _ = ledger.merge(kept, [said(action="retract", asserted_at=T0 + HOUR)])
        again = [
            said(asserted_at=T0 + 2 * HOUR),
            said(correction_id="b", subject="Velm", asserted_at=T0 + 2 * HOUR),
        ]
        _, report = ledger.merge(kept, again)
        assert (report.revived, report.other_facts) == (("mayor-1",), ("b",))
