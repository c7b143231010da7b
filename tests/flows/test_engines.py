"""Nights as tasks of a Dask or Ray cluster publish what a night in this process publishes.

Each needs its extra: `corrigenda[dask]`, `corrigenda[ray]`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fleets import Workspace, move

TWO = """
[[models]]
name = "other"
source = "{source}"
[scale]
engine = "{engine}"
at_once = 2
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_a_cluster_publishes_the_same(engine: str, tmp_path: Path, trained_gpt2: Path) -> None:
    pytest.importorskip(f"prefect_{engine}")
    here = Workspace(tmp_path / "here", trained_gpt2)
    here.submit(move("Bohr", "Rome"))
    assert here.run()["exit_code"] == 0
    scaled = Workspace(tmp_path / "scaled", trained_gpt2, TWO.format(source=trained_gpt2, engine=engine))
    scaled.submit(move("Bohr", "Rome") | {"model": "*"})
    outcome = scaled.run()
    assert [one["status"] for one in outcome["models"]] == ["published", "published"], outcome
    assert scaled.release().files == here.release().files
    assert all(one["seconds"]["edit"] > 0 for one in outcome["models"])
