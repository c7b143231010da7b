"""One order of stages, two runners: the same bytes, and nothing heavy where nothing is new."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fleets import Workspace, move

from corrigenda import Fleet
from corrigenda.storage.releases import manifests

ROWS = (move("Bohr", "Rome"), move("Gauss", "Vienna"), move("Hopper", "Paris"))
MOST_CPU_S = 2.0


def test_the_flow_and_a_plain_run_publish_the_same_bytes(tmp_path: Path, trained_gpt2: Path) -> None:
    plain, flow = (Workspace(tmp_path / name, trained_gpt2) for name in ("plain", "flow"))
    for workspace in (plain, flow):
        workspace.submit(*ROWS)
    done = Fleet.open(plain.config).run()
    assert flow.run()["exit_code"] == done.exit_code == 0
    for ref in ("0", "latest"):
        one, other = plain.release(ref), flow.release(ref)
        assert one.files == other.files
        assert (one.ledger, one.consumed, one.layer, one.settings) == (
            other.ledger, other.consumed, other.layer, other.settings,
        )  # fmt: skip
    assert plain.release().files != plain.release("0").files


def test_a_plain_run_with_nothing_new_takes_less_than_two_seconds_of_cpu(
    tmp_path: Path, trained_gpt2: Path
) -> None:
    workspace = Workspace(tmp_path / "fleet", trained_gpt2)
    workspace.submit(ROWS[0])
    assert Fleet.open(workspace.config).run().models[0].status == "published"
    code = (
        "import sys; from corrigenda.cli import main\n"
        f"sys.argv = ['corrigenda', 'run', '--plain', '--config', {str(workspace.config)!r}]\n"
        "try:\n    main()\nfinally:\n"
        "    print('IMPORTED', *{'torch', 'transformers', 'prefect'} & set(sys.modules), file=sys.stderr)\n"
    )
    spent = []
    for _ in range(3):
        before = cpu_of_children()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
        spent.append(cpu_of_children() - before)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "IMPORTED"), done.stderr
        assert "unchanged" in done.stdout
    assert min(spent) < MOST_CPU_S
    assert [*manifests.numbers(workspace.store, "homes")] == [0, 1]


def cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def test_what_fails_for_one_model_is_its_outcome(tmp_path: Path, trained_gpt2: Path) -> None:
    workspace = Workspace(tmp_path / "strict", trained_gpt2, "gates = { max_drift_nats = 0.0 }\n")
    workspace.submit(ROWS[0])
    done = Fleet.open(workspace.config).run()
    assert done.exit_code == 5
    (failed,) = done.failed
    assert failed.model == "homes" and "drift_nats" in str(failed.error)
