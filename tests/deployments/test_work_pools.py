"""One run per model on a work pool: two process workers share a fleet.

CORRIGENDA_LONG=1 python -m pytest -n0 -s tests/deployments/test_work_pools.py
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from plant import Plant, final, wait_for
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import StateType
from prefect.states import Scheduled
from test_deployments import deploy

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))

from fleets import FLEET, Workspace, move

from corrigenda.pipeline import diary

MODELS = int(os.environ.get("CORRIGENDA_MODELS", "20"))
SECTION = '\n[[models]]\nname = "model-{number:02}"\nsource = "{source}"\n'
SCALE = '[scale]\nengine = "work-pool"\nat_once = 32\n'
LIMIT_S = 1800


@pytest.mark.slow
@pytest.mark.skipif("CORRIGENDA_LONG" not in os.environ, reason="takes minutes: CORRIGENDA_LONG=1")
@pytest.mark.timeout(3600)
def test_two_workers_share_a_fleet(
    plant: Plant, client: SyncPrefectClient, tmp_path: Path, trained_gpt2: Path
) -> None:
    workspace = Workspace(tmp_path / "fleet", trained_gpt2)
    head = FLEET.format(source="").partition("[[models]]")[0]
    sections = "".join(SECTION.format(number=n, source=trained_gpt2) for n in range(MODELS))
    workspace.config.write_text(head + SCALE + sections, encoding="utf-8")
    deployed = deploy(plant, client, workspace.config)
    workspace.submit(move("Bohr", "Rome") | {"model": "*"})

    plant.start_worker("fleet", "--work-queue", "default", "--limit", "1")
    for name in ("first", "second"):
        plant.start_worker(name, "--work-queue", "models", "--limit", "1", "--name", name)
    began = time.monotonic()
    night = client.create_flow_run_from_deployment(deployed["manual"], state=Scheduled()).id
    wait_for("the night", lambda: final(client, night), LIMIT_S, lambda: plant.log("fleet"))
    took = time.monotonic() - began
    assert client.read_flow_run(night).state_type == StateType.COMPLETED

    names = [f"model-{n:02}" for n in range(MODELS)]
    records = diary.latest(workspace.store, names)
    assert {name: rows[0]["status"] for name, rows in records.items()} == dict.fromkeys(names, "published")
    assert len({rows[0]["run_id"] for rows in records.values()}) == 1
    one_model = FlowFilter(name=FlowFilterName(any_=["maintain-model"]))
    runs = client.read_flow_runs(flow_filter=one_model)
    assert len(runs) == MODELS
    shares = [plant.log(name).count("Completed submission") for name in ("first", "second")]
    assert min(shares) > 0
    print(f"{MODELS} models on two workers: {took:.0f} s; they took {shares}")
