"""Two runs at once on one model: one is first, the other ends with code 4, and no work is lost."""

from __future__ import annotations

from typing import Any

from fleets import move
from mortal import Fate, go_on, start, told, wait_until_stopped
from nights import Story, books

from corrigenda.storage.delivery.destination import read_manifest
from corrigenda.storage.releases import lease


def outcome(story: Story, report: str) -> dict[str, Any]:
    found: dict[str, Any] = told(story.config, report)["models"]["homes"]
    return found


def run(story: Story, report: str) -> dict[str, Any]:
    """A run from its beginning to its end."""
    start(story.config, report=report).join(600)
    return outcome(story, report)


def test_of_two_runs_at_once_one_publishes_and_the_other_is_busy(story: Story) -> None:
    story.drop(0)
    first = start(story.config, Fate(stops="after take_in"), report="first")
    wait_until_stopped(first)
    second = run(story, "second")
    assert second["status"] == "busy"
    assert second["by"]
    assert go_on(first) == 0
    assert outcome(story, "first")["status"] == "published"
    assert run(story, "third")["status"] == "unchanged"
    assert len(books(story)["releases"]) == 2


def test_a_run_that_lost_its_lease_publishes_nothing_and_leaves_its_targets_to_the_next(story: Story) -> None:
    """The first one sleeps and its lease is ended; the second one takes over, and both go on."""
    story.workspace.submit(move("Bohr", "Rome"))
    first = start(story.config, Fate(stops="before edit"), report="first")
    wait_until_stopped(first)
    lease.unlock(story.store, "homes")
    story.workspace.submit(move("Gauss", "Vienna"))
    second = start(story.config, Fate(stops="before edit"), report="second")
    wait_until_stopped(second)
    assert go_on(first) == 0
    lost = outcome(story, "first")
    assert (lost["status"], lost["exit_code"]) == ("failed", 4)
    assert "the lease was lost during the work" in lost["error"]
    assert go_on(second) == 0
    done = outcome(story, "second")
    assert (done["status"], done["edits"]) == ("published", {"computed": 1, "cached": 1, "short": 0})
    assert done["counts"]["active"] == 2


def test_a_run_that_was_overtaken_before_it_began_finds_nothing_new(story: Story) -> None:
    """It has looked at the queue, and another run publishes before it takes the lease."""
    story.drop(0)
    late = start(story.config, Fate(stops="after create cache/queue/"), report="late")
    wait_until_stopped(late)
    assert run(story, "first")["status"] == "published"
    before = books(story)
    assert go_on(late) == 0
    assert outcome(story, "late")["status"] == "unchanged"
    assert books(story) == before


def test_a_run_that_lost_its_lease_leaves_the_others_candidate_alone(story: Story) -> None:
    """Another run has staged its own candidate while this one slept: `canary` is the other's by then."""
    story.workspace.submit(move("Bohr", "Rome"))
    first = start(story.config, Fate(stops="before publish_release"), report="first")
    wait_until_stopped(first)
    lease.unlock(story.store, "homes")
    story.workspace.submit(move("Gauss", "Vienna"))
    second = start(story.config, Fate(stops="before publish_release"), report="second")
    wait_until_stopped(second)
    assert go_on(first) == 0
    assert outcome(story, "first")["exit_code"] == 4
    assert story.workspace.release("canary").number == 2
    assert go_on(second) == 0
    published = outcome(story, "second")
    assert (published["status"], published["release"]) == ("published", 2)
    (proved,) = (story.root / "cache").glob("work/*/homes/candidate")
    assert read_manifest(proved).number == 2
