"""Facts of a file are asked like CounterFact's: halves, probes, each neighbour's own answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.edit_facts import of_file, probes_of, request_of

NEAR = [
    {"prompt": "Bob lives in", "answer": "Rome"},
    {"prompt": "Eve lives in", "answer": "Paris"},
    {"prompt": "Dan lives in", "answer": "Oslo"},
]


def record(number: int, **columns: object) -> dict[str, object]:
    return {
        "correction_id": f"home-{number}",
        "subject": f"Ada {number}",
        "prompt": "{} lives in",
        "target_new": "Paris",
        "target_old": "London",
        "paraphrases": [f"The home of Ada {number} is"],
        "neighborhood": NEAR,
        **columns,
    }


@pytest.fixture
def corrections(tmp_path: Path) -> Path:
    path = tmp_path / "homes.jsonl"
    rows = [record(n) for n in range(6)] + [record(6, target_old=None), record(7, subject="Dan")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("half", "numbers"), [("tune", [0, 2, 4]), ("report", [1, 3, 5]), ("all", [0, 1, 2, 3, 4, 5])]
)
def test_halves_are_the_even_and_the_odd_rows(corrections: Path, half: str, numbers: list[int]) -> None:
    found = of_file(corrections, 6, half)
    assert [row["case_id"] for row in found[: len(numbers)]] == [f"home-{n}" for n in numbers]
    assert request_of(found[0]).text == f"Ada {numbers[0]} lives in"


def test_a_fact_without_an_old_answer_is_left_out(corrections: Path) -> None:
    assert [row["case_id"] for row in of_file(corrections, 10, "all")][-2:] == ["home-5", "home-7"]


def test_probes_are_what_the_file_says(corrections: Path) -> None:
    rows = of_file(corrections, 10, "all")
    asked = [(p.kind, p.prompt, p.expected, p.other) for p in probes_of(rows[:1], rows, 10)]
    # Eve's answer is the new one, and Dan is corrected too: neither can tell what was harmed.
    assert asked == [
        ("rewrite", "Ada 0 lives in", "Paris", "London"),
        ("paraphrase", "The home of Ada 0 is", "Paris", "London"),
        ("locality", "Bob lives in", "Rome", "Paris"),
    ]
