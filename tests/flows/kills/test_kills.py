"""Whole nights, killed by SIGKILL: nothing is lost, nothing is done twice, nothing half-done is seen.

Four nights on a trained GPT-2 take in, localize, edit, send out, publish, supersede and retract. Some of
their moments are died at as a matter of course. CORRIGENDA_KILLS=all dies at every one of them, twice over,
at two hundred changes of a directory and at a hundred random moments: some half an hour.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from mortal import Fate, start, told
from nights import NIGHTS, Span, Story, books, check_cleaned

ALL = os.environ.get("CORRIGENDA_KILLS") == "all"
pytestmark = pytest.mark.timeout(7_200 if ALL else 600)


def live(story: Story, fate: Fate | None = None) -> dict[str, Any]:
    """A night that lives to its end; what it says of itself."""
    process = start(story.config, fate)
    process.join(600)
    assert process.exitcode == 0
    said = told(story.config)
    assert all(model["status"] != "failed" for model in said["models"].values()), said["models"]
    return said


def die(story: Story, fate: Fate) -> bool:
    """A night that may die; whether it did."""
    process = start(story.config, fate)
    process.join(600)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def undisturbed(story: Story, fate: Fate | None = None) -> Iterator[tuple[Span, dict[str, Any]]]:
    """Night by night: what may be seen of it, and what it said. The story stands before the night then.

    The next night goes on from whatever the caller has made of this one.
    """
    for night in range(len(NIGHTS)):
        story.drop(night)
        story.keep()
        before = books(story)
        said = live(story, fate)
        span = Span(before, books(story))
        story.bring_back()
        yield span, said
        assert books(story) == span.after


def spread(count: int, few: int, many: int | None = None) -> range:
    """Numbers below `count`, evenly: about `few` of them; `many`, or all, when everything is asked for."""
    step = -(-count // ((many or count) if ALL else few))
    return range(step // 2, count, step)


def test_a_night_that_died_at_some_moment_ends_as_if_it_had_not(story: Story) -> None:
    """One death a night, then one night that lives: from the same start for each moment."""
    kills = 0
    for span, said in undisturbed(story):
        for moment in spread(len(said["moments"]), 2):
            story.bring_back()
            assert die(story, Fate(dies=moment)), said["moments"][moment]
            span.check(story)
            live(story)
            assert books(story) == span.after, said["moments"][moment]
            kills += 1
    check_cleaned(story)
    print(f"{kills} kills, 0 lost, 0 doubled")


def test_a_night_that_dies_again_and_again_gets_there_all_the_same(story: Story) -> None:
    """Each run dies a moment later than the one before, until one lives."""
    kills = 0
    for span, said in undisturbed(story):
        for moment in spread(len(said["moments"]), 8):
            if not die(story, Fate(dies=moment)):
                break
            span.check(story)
            kills += 1
        live(story)
    releases = books(story)["releases"]
    seen = {state for release in releases for state, count in release["counts"].items() if count}
    assert seen == {"active", "superseded", "retracted", "quarantined"}
    assert len(releases) == 1 + len(NIGHTS)
    assert releases[-1]["files"] == releases[0]["files"] != releases[-2]["files"]
    check_cleaned(story)
    print(f"{kills} kills, 0 lost, 0 doubled")


def test_a_night_may_die_while_a_directory_is_changed(story: Story) -> None:
    kills = 0
    for span, said in undisturbed(story, Fate(fine=True)):
        for moment in spread(len(said["moments"]), 1, 60):
            story.bring_back()
            assert die(story, Fate(dies=moment, fine=True)), said["moments"][moment]
            span.check(story)
            live(story)
            assert books(story) == span.after, said["moments"][moment]
            kills += 1
    check_cleaned(story)
    print(f"{kills} kills, 0 lost, 0 doubled")


def test_a_night_may_die_at_any_time(story: Story) -> None:
    """The process is killed from outside, wherever it is."""
    chosen, kills = random.Random(0), 0
    for span, said in undisturbed(story):
        for _ in range(25 if ALL else 1):
            story.bring_back()
            process = start(story.config)
            time.sleep(chosen.uniform(0.05, said["seconds"]))
            process.kill()
            process.join(600)
            kills += process.exitcode == -signal.SIGKILL
            span.check(story)
            live(story)
            assert books(story) == span.after
    check_cleaned(story)
    print(f"{kills} kills, 0 lost, 0 doubled")
