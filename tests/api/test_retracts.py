"""A retract is later than what it takes back, by whichever door it comes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from corrigenda import Fleet, errors, open_store, submit

AHEAD = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
FLEET = """
[store]
url = "./store"
[queue]
url = "./queue"
[[models]]
name = "smol"
source = "none"
"""
FACT = {
    "correction_id": "mayor-1",
    "model": "smol",
    "subject": "Springfield",
    "prompt": "The mayor of {} is",
    "target_new": "Bea",
}
RETRACT = {"correction_id": "mayor-1", "model": "smol", "action": "retract"}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    (tmp_path / "fleet.toml").write_text(FLEET, encoding="utf-8")
    (tmp_path / "store").mkdir()
    found = Fleet.open(tmp_path / "fleet.toml")
    found.submit([FACT | {"asserted_at": AHEAD}])
    return found


def states(fleet: Fleet) -> dict[str, str]:
    """What the ledger would make of the queue as it stands."""
    from corrigenda.storage.corrections import intake, ledger

    config = fleet.config
    queue = open_store(str(config.root / "queue"))
    found = intake.look(queue, fleet.store, config, {"smol": frozenset()}).of("smol")
    merged, _ = ledger.merge(ledger.empty(), found.arrivals())
    return {entry.correction.action: entry.state for entry in merged.entries}


@pytest.mark.parametrize("rows", [[RETRACT], pa.Table.from_pylist([RETRACT])], ids=["dicts", "table"])
def test_a_retract_without_a_time_takes_back_what_is_dated_ahead(fleet: Fleet, rows: Any) -> None:
    done = fleet.submit(rows)
    assert done.corrections["asserted_at"][0].as_py() > AHEAD
    assert states(fleet) == {"upsert": "retracted", "retract": "retracted"}


def test_so_does_one_in_a_file_and_twice_is_once(fleet: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "retracts.csv"
    path.write_text("correction_id,model,action\nmayor-1,smol,retract\n", encoding="utf-8")
    first, second = fleet.submit(path), fleet.submit(path)
    assert first.file == second.file
    assert states(fleet)["upsert"] == "retracted"


def test_the_method_does_the_same(fleet: Fleet) -> None:
    done = fleet.retract("mayor-1", reason="wrong")
    assert done.not_in_a_release == ("mayor-1",)
    assert states(fleet)["upsert"] == "retracted"


def test_a_time_that_was_given_stands_and_it_is_said_that_it_takes_nothing_back(fleet: Fleet) -> None:
    done = fleet.submit([RETRACT | {"asserted_at": AHEAD - timedelta(days=1)}])
    assert any("nothing is taken back" in note for note in done.notes)
    assert states(fleet)["upsert"] == "active"


def test_rows_that_are_no_corrections_come_back_and_the_others_go_on(fleet: Fleet) -> None:
    done = fleet.submit(
        [
            FACT | {"correction_id": "a", "asserted_at": AHEAD},
            FACT | {"prompt": "no slot", "asserted_at": AHEAD},
        ]
    )
    assert done.good == 1
    (reject,) = done.rejects
    assert (reject.row, reject.reason) == (1, "no_slot")
    assert reject.remedy


def test_a_model_that_nobody_has_is_named(fleet: Fleet) -> None:
    with pytest.raises(errors.NotFoundError, match="smol"):
        fleet.submit([FACT], model="llama")


def test_a_queue_alone_is_enough_to_hand_in(tmp_path: Path) -> None:
    first = submit([FACT | {"asserted_at": AHEAD}], to=str(tmp_path / "queue"))
    again = submit([FACT | {"asserted_at": AHEAD}], to=open_store(str(tmp_path / "queue")))
    assert first.file == again.file
    assert [path.name for path in (tmp_path / "queue").rglob("*.parquet")] == [Path(str(first.file)).name]
