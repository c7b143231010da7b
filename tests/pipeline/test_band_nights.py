"""Nights that edit several layers: what is published depends on the set alone, and adapters hold it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fleets import NOON, Workspace, move
from trained import train

from corrigenda.pipeline.night import open_fleet
from corrigenda.pipeline.order import run_fleet
from corrigenda.storage.delivery import lora
from corrigenda.storage.delivery.pull import resolve
from corrigenda.storage.releases import manifests

SETTINGS = """localization = { layer = 1 }
editing = { band = 2, covariance_weight = 1.0, targets = { contexts = 1, key_contexts = 1 } }
"""
MOVES = [move("Bohr", "Rome"), move("Gauss", "Paris"), move("Twain", "Vienna")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two models of one base, which share what is measured of it."""
    deep = train(tmp_path_factory.mktemp("deep"), "deep_gpt2")
    twin = f'[[models]]\nname = "twin"\nsource = "{deep}"\n{SETTINGS}'
    return Workspace(tmp_path_factory.mktemp("band") / "fleet", deep, SETTINGS + twin)


def night(workspace: Workspace, *rows: dict[str, object]) -> None:
    workspace.submit(*rows)
    outcome = run_fleet(open_fleet(workspace.config))
    assert outcome["exit_code"] == 0, outcome


def test_a_band_is_published_whole_and_depends_on_the_set_alone(workspace: Workspace, tmp_path: Path) -> None:
    store = workspace.store
    night(workspace, *MOVES, MOVES[2] | {"model": "twin"})
    made, alone = resolve(store, "homes", "latest"), resolve(store, "twin", "latest")
    assert made.layer == 1 and made.settings["editing"]["layers"] == [1, 2]
    base = manifests.read(store, "homes", 0)
    assert sum(base.files[path] != ref for path, ref in made.files.items()) == 2
    night(workspace, *(row | {"model": "twin"} for row in MOVES[1::-1]))
    assert resolve(store, "twin", "latest").files == made.files
    late = {"action": "retract", "model": "twin", "asserted_at": NOON.replace(hour=20)}
    night(workspace, *({"correction_id": row["correction_id"]} | late for row in MOVES[:2]))
    assert resolve(store, "twin", "latest").files == alone.files
    adapter = lora.export(store, made, tmp_path / "adapter", stored_transposed=True)
    assert len(adapter.tensors) == 2 and adapter.relative_error <= lora.TOLERANCE
    config = json.loads((tmp_path / "adapter" / lora._CONFIG).read_text(encoding="utf-8"))
    assert config["layers_to_transform"] == [1, 2]


def test_what_no_residual_says_is_told_by_name(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ball so narrow that nobody moves: the night says whom no solve can help."""
    config = workspace.config.read_text(encoding="utf-8")
    narrow = config.replace("contexts = 1,", "norm_cap = 0.0001, contexts = 1,", 2)
    workspace.config.write_text(narrow + "gates = { min_said = 0.0 }\n", encoding="utf-8")
    night(workspace, move("Curie", "Rome", hour=21, model="twin"))
    assert "short: the model cannot say it" in capsys.readouterr().err
    told = resolve(workspace.store, "twin", "latest").settings["editing"]["cannot_say"]
    assert "home-Curie" in told
