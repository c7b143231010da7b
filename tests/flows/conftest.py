"""A real local orchestrator for the session, a cache for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleets import Workspace


@pytest.fixture(scope="session", autouse=True)
def orchestrator() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def workspace(tmp_path: Path, trained_gpt2: Path) -> Workspace:
    return Workspace(tmp_path / "fleet", trained_gpt2)
