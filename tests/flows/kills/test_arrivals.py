"""The same corrections, in any order and over any nights, in stores that know nothing of one another.

CORRIGENDA_TEST_SCALE multiplies the number of ways.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from fleets import move
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mortal import start, told
from nights import Story, taken_back

from corrigenda.storage.releases.snapshots import ledger_of

SCALE = float(os.environ.get("CORRIGENDA_TEST_SCALE", "1"))
ROWS = (
    move("Bohr", "Rome"),
    move("Gauss", "Vienna"),
    move("Hopper", "Paris"),
    move("Bohr", "Madrid", hour=2),
    move("Euler", "Rome", hour=3),
    taken_back("home-Gauss", hour=4),
)


class Ended(NamedTuple):
    """Where a fleet stands: the published files, and each version of each correction with its state."""

    files: dict[str, Any]
    states: list[tuple[str, str, str | None]]


def end_of(story: Story, *nights: tuple[dict[str, Any], ...]) -> Ended:
    for rows in nights:
        story.workspace.submit(*rows)
        start(story.config).join(600)
        assert told(story.config)["models"]["homes"]["status"] == "published"
    release = story.workspace.release()
    entries = ledger_of(story.store, release).entries
    return Ended(dict(release.files), [(entry.digest, entry.state, entry.why) for entry in entries])


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory, trained_gpt2: Any) -> Ended:
    return end_of(Story(tmp_path_factory.mktemp("once") / "fleet", trained_gpt2), ROWS)


@settings(
    max_examples=max(2, round(3 * SCALE)),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.permutations(ROWS), st.sets(st.integers(1, len(ROWS) - 1), min_size=1, max_size=2))
def test_neither_order_nor_nights_nor_the_store_changes_a_byte(
    at_once: Ended,
    tmp_path_factory: pytest.TempPathFactory,
    trained_gpt2: Any,
    rows: list[dict[str, Any]],
    cuts: set[int],
) -> None:
    story = Story(tmp_path_factory.mktemp("spread") / "fleet", trained_gpt2)
    ends = [0, *sorted(cuts), len(rows)]
    nights = [tuple(rows[a:b]) for a, b in pairwise(ends)]
    assert end_of(story, *nights) == at_once
