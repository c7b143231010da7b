"""Nights as they come: a fleet of three architectures, a server, a worker, and a cron that fires each minute.

    CORRIGENDA_LONG=1 python -m pytest -n0 -s tests/deployments/test_three_nights.py

It tells what happens: a sabotaged model, a worker killed in mid-run, an API that is away for half a minute,
and a power cut. Each time the next night, or the same one, puts it right by itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from plant import Plant, final, runs_of, wait_for
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.schemas.automations import AutomationCore
from test_deployments import deploy, every_minute, pause

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))

from fleets import FLEET, Workspace, move
from trained import KINDS, train

from corrigenda.pipeline import diary
from corrigenda.storage.releases import lease

NIGHT_S = 900
MODEL = '\n[[models]]\nname = "{name}"\nsource = "./{name}"\n'


class Fleet(Workspace):
    """Three models, and what they say of their nights."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, root)
        head = FLEET.format(source="").partition("[[models]]")[0]
        self.config.write_text(head + "".join(MODEL.format(name=name) for name in KINDS), encoding="utf-8")
        for kind in KINDS:
            train(root / kind, kind)

    def submit_for_all(self, *rows: dict[str, Any]) -> None:
        self.submit(*(row | {"model": "*"} for row in rows))

    def done(self) -> dict[str, int]:
        """How many corrections each model's release has, or has sent into quarantine."""
        from corrigenda.storage.delivery.pull import resolve
        from corrigenda.storage.releases import refs

        found = {}
        for name in KINDS:
            known = refs.read(self.store, name, "latest").ref
            counts = resolve(self.store, name, "latest").counts if known else {}
            found[name] = int(counts.get("active", 0)) + int(counts.get("quarantined", 0))
        return found

    def nights(self, name: str) -> list[str]:
        return [night["status"] for night in diary.latest(self.store, [name])[name]]


@pytest.fixture
def told() -> Iterator[Callable[[str], None]]:
    began = time.monotonic()
    yield lambda text: print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)


@pytest.mark.slow
@pytest.mark.skipif("CORRIGENDA_LONG" not in os.environ, reason="takes minutes: CORRIGENDA_LONG=1")
@pytest.mark.timeout(3600)
def test_nights_come_whatever_happens(
    plant: Plant, client: SyncPrefectClient, tmp_path: Path, told: Callable[[str], None]
) -> None:
    fleet = Fleet(tmp_path / "fleet")
    told(f"a fleet of {', '.join(KINDS)}")
    nightly = deploy(plant, client, fleet.config)["nightly"]
    sooner(client)

    def worker_log() -> str:
        return plant.log("worker")

    # The first night: one model's base is not where it should be.
    (fleet.config.parent / "gpt_neox").rename(tmp_path / "hidden")
    fleet.submit_for_all(move("Bohr", "Rome"))
    every_minute(client, nightly)
    plant.start_worker("worker", "--limit", "1")
    first = wait_for("the first night", lambda: ended(client, nightly), NIGHT_S, worker_log)[0]
    told(f"first night: {first.state_name}; corrections {fleet.done()}")
    assert first.state_type == StateType.FAILED
    assert "gpt_neox" in first.state.message
    assert fleet.done() == {"gpt2": 1, "llama": 1, "gpt_neox": 0}
    (tmp_path / "hidden").rename(fleet.config.parent / "gpt_neox")
    told("the base of gpt_neox is back in its place")
    wait_for("the night that mends it", lambda: fleet.done()["gpt_neox"] == 1, NIGHT_S, worker_log)
    told(f"the next night has mended it: {fleet.done()}")

    # The second: worker and flow are killed while a model is being corrected.
    fleet.submit_for_all(move("Gauss", "Vienna"))
    victim = at_work(client, nightly, fleet)
    plant.cut_power("worker")
    told("second night: worker and flow killed with SIGKILL")
    plant.start_worker("worker", "--limit", "1")
    wait_for("the night after", lambda: set(fleet.done().values()) == {2}, NIGHT_S, worker_log)
    told(f"a later night has done it: {fleet.done()}")
    wait_for("the dead run's end", lambda: final(client, victim), 900)
    told(f"the dead run is {client.read_flow_run(victim).state_name}")
    assert client.read_flow_run(victim).state_type == StateType.CRASHED

    # The third: the API is away for half a minute.
    fleet.submit_for_all(move("Curie", "Madrid"))
    survivor = at_work(client, nightly, fleet)
    plant.cut_power("server")
    told("third night: the server is killed")
    time.sleep(30)
    plant.start_server()
    told("the server is back")
    wait_for("the third night", lambda: final(client, survivor), NIGHT_S, worker_log)
    told(f"third night: {client.read_flow_run(survivor).state_name}; {fleet.done()}")
    assert set(fleet.done().values()) == {3}
    assert client.read_flow_run(survivor).state_type == StateType.COMPLETED

    # And a power cut: server, worker and flow at once, started again on the same database.
    fleet.submit_for_all(move("Planck", "London"))
    victim = at_work(client, nightly, fleet)
    plant.cut_power()
    told("power cut: server, worker and flow killed")
    plant.start_server()
    plant.start_worker("worker", "--limit", "1")
    wait_for("the night after the cut", lambda: set(fleet.done().values()) == {4}, NIGHT_S, worker_log)
    told(f"the next scheduled night came by itself: {fleet.done()}")
    pause(client, nightly)
    wait_for("the dead run's end", lambda: final(client, victim), 900)
    told(f"the dead run is {client.read_flow_run(victim).state_name}; nothing was cancelled")
    states = {run.state_type for run in runs_of(client, nightly)}
    assert StateType.CANCELLED not in states


def sooner(client: SyncPrefectClient) -> None:
    """A run is given up for dead after three minutes without a heartbeat, not ten."""
    (zombies,) = client.read_automations_by_name("corrigenda: a run whose process is gone has crashed")
    zombies.trigger.within = timedelta(seconds=180)
    client.update_automation(zombies.id, AutomationCore.model_validate(zombies.model_dump()))


def ended(client: SyncPrefectClient, deployment: UUID) -> list[Any]:
    return [run for run in runs_of(client, deployment) if run.state and run.state.is_final()]


def at_work(client: SyncPrefectClient, deployment: UUID, fleet: Fleet) -> UUID:
    """The nightly run that is correcting a model right now."""

    def look() -> UUID | None:
        if not any(lease.read(fleet.store, name) for name in KINDS):
            return None
        going = [run.id for run in runs_of(client, deployment) if run.state_type == StateType.RUNNING]
        return going[-1] if going else None

    found: UUID = wait_for("a night at work", look, NIGHT_S)
    return found
