"""Tasks are tested on the tiny models and made-up rows of other folders' tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import strict_device

from corrigenda.pipeline.night import Night, open_fleet
from corrigenda.storage.corrections.intake import Intake

# Before anything is differentiated: autograd counts devices once a process.
strict_device.set_up()

for folder in ("editing", "flows", "storage", "validation"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))


@pytest.fixture
def night(tmp_path):
    config = tmp_path / "fleet.toml"
    config.write_text(
        """store = { url = "./store" }
queue = { url = "./queue" }
[defaults.covariance]
tokens = 1000
length = 16
[[models]]
name = "tiny"
source = "./tiny"
""",
        encoding="utf-8",
    )
    return Night(open_fleet(config), "tiny", Intake({}, {}))
