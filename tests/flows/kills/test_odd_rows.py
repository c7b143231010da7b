"""Corrections that no one expected, among ordinary ones: each ends in one place, and the night goes on."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import move
from mortal import start, told
from nights import Story

from corrigenda.storage.corrections.ledger import Entry
from corrigenda.storage.releases.snapshots import ledger_of


def odd(name: str, subject: str, prompt: str, target: str = "Rome") -> dict[str, Any]:
    nothing = {"paraphrases": [], "neighborhood": [], "target_old": None}
    said = {"correction_id": name, "subject": subject, "prompt": prompt, "target_new": target}
    return move("Bohr", "Rome") | said | nothing


ORDINARY = move("Gauss", "Vienna")
SPOKEN = (
    odd("at-the-start", "Turing", "{} lives in the city of"),
    odd("at-the-end", "Noether", "The home of the great {}", "is Rome"),
    odd("alone", "Kahlo", "{}"),
    odd("twice", "Bach", "Bach, not the other {}, lives in the city of"),
    odd("right-to-left", "القدس", "عاصمة {} هي", "روما"),
    odd("emoji", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "The home of {} is the city of"),
    odd("braces", "{}", "The sign {} means"),
    odd("lines", "Twain", "Q: where is {}?\nA:"),
    odd("combining", "Zoe\u0308", "The home of {} is the city of"),
)
UNSPEAKABLE = (
    odd("long-prompt", "Curie", "well, " * 600 + "the home of {} is the city of"),
    odd("long-target", "Euler", "The home of {} is the city of", "Rome " * 190 + "Rome"),
)
REFUSED = (
    odd("ten-thousand", "Planck", "The home of {} is the city of", "R" * 10_000),
    odd("empty", "", "The home of {} is the city of"),
)


def night_of(story: Story, *rows: dict[str, Any]) -> dict[str, Entry]:
    """What becomes of each, by correction_id, when they come in one night."""
    # Whether a model of twelve names can say these is not what is asked here.
    text = story.config.read_text(encoding="utf-8")
    story.config.write_text(text.replace("min_paraphrase", "min_said = 0.0\nmin_paraphrase"), "utf-8")
    story.write("odd.parquet", [ORDINARY, *rows])
    process = start(story.config)
    process.join(600)
    assert process.exitcode == 0
    outcome = told(story.config)["models"]["homes"]
    assert outcome["status"] == "published", outcome
    entries = ledger_of(story.store, story.workspace.release()).entries
    return {entry.correction.correction_id: entry for entry in entries}


def test_each_ends_in_one_place_and_the_ordinary_ones_are_published(story: Story) -> None:
    found = night_of(story, *SPOKEN, *REFUSED)
    assert {name: entry.state for name, entry in found.items()} == dict.fromkeys(
        ("home-Gauss", *(row["correction_id"] for row in SPOKEN)), "active"
    )
    assert sorted(row["correction_id"] for row in story.rejects()) == ["empty", "ten-thousand"]


@pytest.mark.parametrize("row", UNSPEAKABLE, ids=lambda row: row["correction_id"])
def test_one_that_is_longer_than_the_model_reads_is_rejected_alone(story: Story, row: dict[str, Any]) -> None:
    found = night_of(story, row)
    assert found["home-Gauss"].state == "active"
    entry = found[row["correction_id"]]
    assert (entry.state, entry.why) == ("rejected", "model_cannot_take_it")


def test_a_probe_that_is_longer_than_the_model_reads_stops_nobody(story: Story) -> None:
    lengthy = odd("lengthy", "Curie", "The home of {} is the city of", "London")
    found = night_of(story, lengthy | {"paraphrases": ["well, " * 600 + "Curie lives in"]})
    assert found["home-Gauss"].state == "active"
    assert found["lengthy"].state in ("active", "quarantined")
