"""Stores that older versions made: pulled, asked, rolled back and extended for ever."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from corrigenda.cli.app import build_app

HERE = Path(__file__).parent
STORES = sorted(HERE.glob("store-*.tar.xz"))


FLEET = """
[store]
url = "./store"
[queue]
url = "./queue"
[defaults]
device = "cpu"
[defaults.gates]
max_locality_drop = 0.5
max_perplexity_rise = 5.0
max_drift_nats = 5.0
min_paraphrase = 0.0
[defaults.localization]
layer = 0
[defaults.editing]
covariance_weight = 1.0
[defaults.editing.targets]
contexts = 0
[defaults.covariance]
tokens = 1000
length = 25
[defaults.drift]
tokens = 1000
length = 25
[[models]]
name = "homes"
source = "../base"
"""


def told(*command: str) -> str:
    done = CliRunner().invoke(build_app(), command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def digests(folder: Path) -> dict[str, str]:
    found = (
        path for path in folder.resolve().rglob("*") if path.is_file() and ".corrigenda" not in path.parts
    )
    return {
        path.relative_to(folder.resolve()).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


@pytest.fixture(params=STORES, ids=lambda path: path.name.partition(".")[0])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """The configuration of an unpacked store, and what each of its releases held when it was made."""
    with tarfile.open(request.param) as tar:
        tar.extractall(tmp_path, filter="data")
    (tmp_path / "work/queue").mkdir(exist_ok=True)
    (tmp_path / "work/fleet.toml").write_text(FLEET, encoding="utf-8")  # of today: it is no part of the store
    name = request.param.name.partition(".")[0]
    return str(tmp_path / "work/fleet.toml"), json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def test_every_release_is_pulled_byte_for_byte(
    old: tuple[str, dict[str, dict[str, str]]], tmp_path: Path
) -> None:
    config, expected = old
    for number, files in expected.items():
        told("pull", f"homes@{number}", str(tmp_path / number), "--config", config)
        assert digests(tmp_path / number) == files


def test_results_are_asked_in_sql(old: tuple[str, dict[str, dict[str, str]]]) -> None:
    config, _ = old
    asked = (
        "select correction_id, bool_and(pass_after) as ok from rows where kind = 'rewrite' and release = 2 "
    )
    rows = json.loads(told("query", asked + "group by 1 order by 1", "--config", config, "--json"))
    assert [row["correction_id"] for row in rows] == ["home-Curie", "home-Planck"]
    assert all(row["ok"] for row in rows)


def test_history_is_told_and_latest_goes_back(
    old: tuple[str, dict[str, dict[str, str]]], tmp_path: Path
) -> None:
    config, expected = old
    shown = json.loads(told("show", "home-Gauss", "--config", config, "--json"))
    assert {row["state"] for row in shown["history"]} == {"active", "retracted"}
    told("rollback", "homes", "--to", "1", "--config", config)
    told("pull", "homes", str(tmp_path / "back"), "--config", config)
    assert digests(tmp_path / "back") == expected["1"]


def test_a_night_goes_on_from_it(old: tuple[str, dict[str, dict[str, str]]], tmp_path: Path) -> None:
    """The base is in the store: its source, which is gone, is not asked for."""
    config, expected = old
    row = {"correction_id": "home-Bach", "subject": "Bach", "prompt": "The home of {} is the city of"}
    more = {"target_new": "Paris", "asserted_at": "2026-12-01T00:00:00Z", "model": "homes"}
    (tmp_path / "more.jsonl").write_text(json.dumps(row | more), encoding="utf-8")
    told("submit", str(tmp_path / "more.jsonl"), "--config", config)
    (night,) = json.loads(told("run", "--plain", "--config", config, "--json"))["models"]
    assert (night["status"], night["release"]) == ("published", 3)
    assert night["counts"]["active"] + night["counts"]["quarantined"] == 4
    for number, files in expected.items():
        told("pull", f"homes@{number}", str(tmp_path / number), "--config", config)
        assert digests(tmp_path / number) == files
