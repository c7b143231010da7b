"""Nights in processes of their own: no orchestrator, one thread each, forked by a server that has imported
everything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from nights import Story

HERE = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def orchestrator() -> None:
    """These nights run without one."""


@pytest.fixture(scope="session", autouse=True)
def forked_nights_find_their_helpers() -> None:
    """For the server that forks them, which starts with the first night."""
    found = [str(HERE), str(HERE.parent), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, found))


@pytest.fixture
def story(tmp_path: Path, trained_gpt2: Path) -> Story:
    return Story(tmp_path / "fleet", trained_gpt2)
