"""The shipped deployments, on a real server and a real process worker."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.states import Scheduled

from corrigenda.config import Location
from corrigenda.storage.objects.opening import open_store
from corrigenda.storage.releases import history, refs

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "editing"))

RUN_LIMIT_S = 180
FLEET = """
[store]
url = "./store"
[queue]
url = "./queue"
[[models]]
name = "tiny"
source = "./tiny"
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """A fleet of one small model with an empty queue."""
    import torch
    from tiny_models import tiny

    model = tiny("gpt2", dtype=torch.float32)
    model.network.save_pretrained(tmp_path / "tiny")
    model.tokenizer.save_pretrained(tmp_path / "tiny")
    (tmp_path / "fleet.toml").write_text(FLEET, encoding="utf-8")
    return tmp_path / "fleet.toml"


@pytest.mark.slow
def test_both_deployments_run_on_a_process_worker(
    orchestrator: Any, client: SyncPrefectClient, fleet: Path
) -> None:
    orchestrator.environment["CORRIGENDA_CONFIG"] = str(fleet)
    orchestrator.prefect("work-pool", "create", "corrigenda", "--type", "process")
    orchestrator.prefect("--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")

    deployed = {deployment.name: deployment for deployment in client.read_deployments()}
    assert set(deployed) == {"nightly", "manual"}
    assert [s.schedule.cron for s in deployed["nightly"].schedules] == ["0 2 * * *"]
    assert deployed["manual"].schedules == []
    strategies = {n: d.concurrency_options.collision_strategy for n, d in deployed.items()}
    assert strategies == {"nightly": "CANCEL_NEW", "manual": "ENQUEUE"}

    runs = [
        client.create_flow_run_from_deployment(deployed[name].id, state=Scheduled()).id
        for name in ("nightly", "manual")
    ]
    with orchestrator.background("worker", "start", "--pool", "corrigenda", "--limit", "1"):
        states = [end_of(client, run, orchestrator.logs / "worker.log") for run in runs]
    assert [state.type for state in states] == [StateType.COMPLETED, StateType.COMPLETED], states

    store = open_store(Location(url="./store"), root=fleet.parent)
    assert refs.read(store, "tiny", "latest").ref.release == 0
    assert [release.number for release in history.of_model(store, "tiny")] == [0]


@pytest.fixture
def client(orchestrator: Any) -> Iterator[SyncPrefectClient]:
    """Prefect's own client: it asks again where the server's database is locked for a moment (status 503)."""
    with SyncPrefectClient(orchestrator.environment["PREFECT_API_URL"]) as connected:
        yield connected


def end_of(client: SyncPrefectClient, run: UUID, log: Path) -> State:
    """The state in which a run ends."""
    limit = time.monotonic() + RUN_LIMIT_S
    while time.monotonic() < limit:
        state = client.read_flow_run(run).state
        if state is not None and state.is_final():
            return state
        time.sleep(0.5)
    pytest.fail(f"the run did not end; the worker said:\n{log.read_text()}")
