"""The shipped deployments, on a real server and a real process worker."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from corrigenda.config import Location
from corrigenda.storage import manifests, refs
from corrigenda.storage.objects import open_store

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
def test_both_deployments_run_on_a_process_worker(orchestrator: Any, fleet: Path) -> None:
    orchestrator.environment["CORRIGENDA_CONFIG"] = str(fleet)
    orchestrator.prefect("work-pool", "create", "corrigenda", "--type", "process")
    orchestrator.prefect("--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")

    deployed = {d["name"]: d for d in post(orchestrator, "deployments/filter", {})}
    assert set(deployed) == {"nightly", "manual"}
    assert [s["schedule"]["cron"] for s in deployed["nightly"]["schedules"]] == ["0 2 * * *"]
    assert deployed["manual"]["schedules"] == []
    strategies = {n: d["concurrency_options"]["collision_strategy"] for n, d in deployed.items()}
    assert strategies == {"nightly": "CANCEL_NEW", "manual": "ENQUEUE"}

    runs = [start(orchestrator, deployed[name]["id"]) for name in ("nightly", "manual")]
    with orchestrator.background("worker", "start", "--pool", "corrigenda", "--limit", "1"):
        states = [end_of(orchestrator, run) for run in runs]
    assert [state["type"] for state in states] == ["COMPLETED", "COMPLETED"], states

    store = open_store(Location(url="./store"), root=fleet.parent)
    assert refs.read(store, "tiny", "latest").ref.release == 0
    assert [release.number for release in manifests.history(store, "tiny")] == [0]


def post(orchestrator: Any, path: str, body: dict[str, Any]) -> Any:
    """The server's answer to a POST with a JSON body."""
    request = urllib.request.Request(
        f"{orchestrator.environment['PREFECT_API_URL']}/{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def start(orchestrator: Any, deployment: str) -> str:
    """Trigger a deployment; the id of its run."""
    run = post(orchestrator, f"deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})
    return str(run["id"])


def end_of(orchestrator: Any, run: str) -> dict[str, Any]:
    """The state in which a run ends."""
    limit = time.monotonic() + RUN_LIMIT_S
    while time.monotonic() < limit:
        (found,) = post(orchestrator, "flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        state: dict[str, Any] = found["state"]
        if state["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
            return state
        time.sleep(0.5)
    pytest.fail(f"the run did not end; the worker said:\n{(orchestrator.logs / 'worker.log').read_text()}")
