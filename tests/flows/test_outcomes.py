"""What a night leaves behind: its record, what people see of it, and releases that are held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fleets import Workspace, move
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Artifact

from corrigenda.pipeline import diary, order
from corrigenda.pipeline.ingest import read_queue
from corrigenda.pipeline.night import Night, open_fleet
from corrigenda.storage.releases import hold, refs
from corrigenda.validation import results

BOHR, GAUSS, CURIE = move("Bohr", "Rome"), move("Gauss", "Vienna"), move("Curie", "Madrid")


def test_a_night_is_on_record_and_shown_and_a_held_release_stays(workspace: Workspace) -> None:
    workspace.submit(BOHR)
    outcome = workspace.run()
    (came,) = outcome["models"]
    assert came["status"] == "published"
    assert came["samples"][0]["correction_id"] == "home-Bohr"
    assert came["bytes"] > 0
    assert {"register", "take_in", "edit", "validate", "publish_release"} <= came["seconds"].keys()
    assert diary.read(workspace.store, outcome["run_id"], "homes") == json.loads(json.dumps(came))
    nights = results.query(
        results.connect(workspace.store),
        "select status, release, active, seconds['edit'] > 0 as edited from nights",
    )
    assert nights.to_pylist() == [{"status": "published", "release": 1, "active": 1, "edited": True}]
    seen_in_prefect(outcome["run_id"])

    hold.place(workspace.store, "homes", at=0, why="Rome is wrong", who="Ada")
    workspace.submit(GAUSS)
    (kept,) = workspace.run()["models"]
    assert (kept["status"], kept["release"], kept["held"]) == ("held", 0, "Rome is wrong")
    assert workspace.release().number == 0
    assert hold.lift(workspace.store, "homes") is not None
    (freed,) = workspace.run()["models"]
    assert (freed["status"], freed["counts"]["active"]) == ("published", 2)


def seen_in_prefect(run_id: str) -> None:
    """The names of the runs, the model's summary, and the fleet's table."""
    with get_client(sync_client=True) as client:
        runs = {run.name for run in client.read_flow_runs()}
        shown: dict[str | None, Artifact] = {one.key: one for one in client.read_artifacts()}
    assert "homes: published, release 1" in runs
    assert f"{run_id[:15]}: 1 published" in runs
    summary = str(shown["model-homes"].data)
    assert "# homes: published, release 1" in summary
    assert "| said |" in summary
    assert "| The home of Bohr is the city of |" in summary
    assert '"status": "published"' in str(shown["fleet"].data)


def test_a_hold_that_comes_while_a_night_is_under_way_stops_it_at_the_door(workspace: Workspace) -> None:
    workspace.submit(CURIE)
    fleet = open_fleet(workspace.config)
    order.run_fleet(fleet, run=lambda stage, *args, **named: stage(*args, **named))
    workspace.submit(GAUSS)

    def run(stage: Any, /, *args: Any, **named: Any) -> Any:
        if stage.__name__ == "publish_release":
            hold.place(workspace.store, "homes", why="not tonight", who="Ada")
        return stage(*args, **named)

    fleet = open_fleet(workspace.config)
    night = Night(fleet, "homes", read_queue(fleet, ["homes"]))
    came = order.attempt(night, lambda one: order.maintain_model(one, run))
    assert came["status"] == "held"
    assert refs.require(workspace.store, "homes", "latest").release == 1


FLEET_OF_TWO = """
[[models]]
name = "other"
source = "{source}"
{more}
[scale]
engine = "processes"
at_once = 2
"""


@pytest.mark.slow
def test_nights_in_processes_publish_the_same_and_one_that_dies_is_one_failed_model(
    tmp_path: Path, trained_gpt2: Path
) -> None:
    here = Workspace(tmp_path / "here", trained_gpt2)
    here.submit(BOHR | {"model": "*"})
    assert here.run()["exit_code"] == 0

    scaled = Workspace(tmp_path / "scaled", trained_gpt2, FLEET_OF_TWO.format(source=trained_gpt2, more=""))
    scaled.submit(BOHR | {"model": "*"})
    models = {one["model"]: one for one in scaled.run()["models"]}
    assert {name: one["status"] for name, one in models.items()} == {
        "homes": "published",
        "other": "published",
    }
    assert scaled.release().files == here.release().files
    assert models["other"]["seconds"]["edit"] > 0
    assert [one["status"] for one in scaled.run()["models"]] == ["unchanged", "unchanged"]
