"""A real orchestrator for the tests, with a home of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from plant import Plant
from prefect.client.orchestration import SyncPrefectClient


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    """A server that runs; whatever the test starts beside it is ended."""
    found = Plant(tmp_path, {})
    try:
        found.start_server()
        yield found
    finally:
        found.stop()


@pytest.fixture
def client(plant: Plant) -> Iterator[SyncPrefectClient]:
    """Prefect's own client: it asks again where the server's database is locked for a moment (status 503)."""
    with SyncPrefectClient(plant.api) as connected:
        yield connected
