"""One night end to end on SmolLM2-135M-Instruct, a real pretrained model of the Llama family."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from fleets import NOON

from corrigenda.config import Location
from corrigenda.errors import SetupError
from corrigenda.flows.maintain_fleet import maintain_fleet
from corrigenda.models.plain import continuations
from corrigenda.models.sources import resolve
from corrigenda.storage.corrections.queue import submit
from corrigenda.storage.delivery.pull import pull
from corrigenda.storage.objects.opening import open_store

CHOSEN = ("capital-australia", "capital-turkey", "capital-switzerland")
FLEET = """
[store]
url = "./store"
[queue]
url = "./queue"
[[models]]
name = "smol"
source = "{source}"
localization = {{ method = "lga", sample = 8 }}
covariance = {{ tokens = 2560, length = 32 }}
drift = {{ tokens = 1024, length = 32 }}
# Three corrections are too few for shares of chats, and items of capability are few, too.
gates = {{ max_perplexity_rise = 0.1, min_chat = 0.0, max_capability_drop = 0.1 }}
"""


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's model, in the user's cache when it was converted before."""
    try:
        return resolve("demo:smollm2-135m", root=Path())
    except SetupError as fault:
        pytest.skip(f"the model's wheel cannot be had here: {fault}")


def demo_rows() -> list[dict[str, Any]]:
    text = resources.files("corrigenda").joinpath("data", "demo_corrections.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [row | {"model": "smol", "asserted_at": NOON} for row in rows if row["correction_id"] in CHOSEN]


@pytest.mark.model
@pytest.mark.slow
def test_a_night_on_a_real_model_is_proved_and_published(smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "queue").mkdir()
    config = tmp_path / "fleet.toml"
    config.write_text(FLEET.format(source=smollm2), encoding="utf-8")
    rows = demo_rows()
    submit(rows, to=Location(url=str(tmp_path / "queue")))

    outcome = maintain_fleet(str(config))

    assert outcome["exit_code"] == 0, outcome
    assert all(gate["passed"] for gate in outcome["models"][0]["gates"]["gates"])
    store = open_store(Location(url="./store"), root=tmp_path)
    pull(store, "smol", "latest", tmp_path / "pulled")
    pull(store, "smol", "0", tmp_path / "base")
    asked = [row["prompt"].replace("{}", row["subject"]) for row in rows]
    said = continuations(tmp_path / "pulled", asked, 6)
    assert [t.strip().startswith(row["target_new"]) for t, row in zip(said, rows, strict=True)] == [True] * 3
    was = continuations(tmp_path / "base", asked, 6)
    assert not any(t.strip().startswith(row["target_new"]) for t, row in zip(was, rows, strict=True))
    assert maintain_fleet(str(config))["models"][0]["status"] == "unchanged"
