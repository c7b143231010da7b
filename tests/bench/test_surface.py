"""The study asks of a fact what follows from it, and of a bare one what it can."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from bench.surface import surface
from corrigenda.facts import Correction, Neighbour

FACT = Correction(
    correction_id="c", subject="Turkey", prompt="The capital of {} is", target_new="Ankara",
    target_old="Istanbul", entails=(Neighbour("The parliament of Turkey sits in", "Ankara"),),
    asserted_at=datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip


def test_each_side_of_a_choice_is_the_right_one_once():
    asked = surface([FACT])
    assert len(asked) == 7
    assert asked["chosen as A"][0].expected == "A"
    assert "B. Ankara" in asked["chosen as B"][0].prompt
    assert asked["yes to the new one"][0].expected != asked["no to the old one"][0].expected


def test_without_an_old_answer_only_what_is_entailed_is_asked():
    assert list(surface([replace(FACT, target_old=None)])) == ["entailed answer said"]
