"""The shipped deployments on a real server and a real process worker: the night comes by itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from plant import Plant, amiss, final, runs_of, wait_for
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.states import Scheduled

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))

from fleets import Workspace, move

RUN_LIMIT_S = 240


@pytest.mark.slow
def test_a_scheduled_night_appears_starts_and_publishes(
    plant: Plant, client: SyncPrefectClient, tmp_path: Path, trained_gpt2: Path
) -> None:
    workspace = Workspace(tmp_path / "fleet", trained_gpt2)
    workspace.submit(move("Bohr", "Rome"))
    deployed = deploy(plant, client, workspace.config)
    by_hand = client.create_flow_run_from_deployment(deployed["manual"], state=Scheduled()).id
    every_minute(client, deployed["nightly"])
    plant.start_worker("worker", "--limit", "1")

    def ended() -> Any:
        return [state for run in runs_of(client, deployed["nightly"]) if (state := final(client, run.id))]

    (night, *_) = wait_for("a night", ended, RUN_LIMIT_S, lambda: plant.log("worker"))
    pause(client, deployed["nightly"])
    wait_for("the run by hand", lambda: final(client, by_hand), RUN_LIMIT_S, lambda: plant.log("worker"))
    assert night.type == StateType.COMPLETED, night
    assert client.read_flow_run(by_hand).state_type == StateType.COMPLETED
    assert workspace.release().number == 1
    assert workspace.release().counts["active"] == 1

    # A service whose loop fails says so here and nowhere else: the scheduler did, and no night came.
    assert not amiss(plant.log("server"))


def deploy(plant: Plant, client: SyncPrefectClient, config: Path) -> dict[str, Any]:
    """The shipped deployments, twice, as a person would: their ids by name."""
    plant.prefect("work-pool", "create", "corrigenda", "--type", "process")
    plant.environment["CORRIGENDA_CONFIG"] = str(config)
    plant.prefect("--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    found = client.read_deployments()
    assert {d.name: [s.schedule.cron for s in d.schedules] for d in found} == {  # type: ignore[union-attr]
        "nightly": ["0 2 * * *"],
        "manual": [],
        "one-model": [],
        "weekly": ["0 12 * * 0"],
    }
    assert all(d.global_concurrency_limit is None for d in found)
    names = [one.name for one in client.read_automations()]
    assert sorted(names) == sorted(set(names))
    return {d.name: d.id for d in found}


def every_minute(client: SyncPrefectClient, deployment: Any) -> None:
    (schedule,) = client.read_deployment_schedules(deployment)
    client.update_deployment_schedule(
        deployment, schedule.id, active=True, schedule=CronSchedule(cron="* * * * *", timezone="UTC")
    )


def pause(client: SyncPrefectClient, deployment: Any) -> None:
    (schedule,) = client.read_deployment_schedules(deployment)
    client.update_deployment_schedule(deployment, schedule.id, active=False)
