"""Whether a release is due: all that can change its bytes is in what it was asked with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from corrigenda.config import Defaults
from corrigenda.editing import versions
from corrigenda.pipeline.publish import asked_for
from corrigenda.settings import AdamDescent, Editing

SECTIONS = ("editing", "localization", "covariance")
# What no rule can make another value of.
OTHER: dict[str, Any] = {
    "method": "middle", "proxy_facts": "own.csv", "layer": 3, "loss": "answer", "old": "model_pred",
    "matrices": "projection",
    "solver": "emmet", "covariance_weight": 30.0, "norm_cap": 0.5, "products": "float32", "metric": "plain",
    "source": "own.txt", "column": "body", "descent": AdamDescent(),
}  # fmt: skip


def changed(settings: BaseModel) -> Iterator[tuple[str, BaseModel]]:
    """The settings with another value of one field, for each field of each section below."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            for path, inner in changed(value):
                yield f"{name}.{path}", settings.model_copy(update={name: inner})
        if name in OTHER:
            yield name, settings.model_copy(update={name: OTHER[name]})
        elif name != "kind" and not isinstance(value, BaseModel):
            yield name, settings.model_copy(update={name: value + 1})


PLAIN = Defaults()
CHANGES = [
    pytest.param(PLAIN.model_copy(update={section: other}), id=f"{section}.{path}")
    for section in SECTIONS
    for path, other in changed(getattr(PLAIN, section))
]


@pytest.mark.parametrize("other", CHANGES)
def test_a_change_of_any_setting_that_can_change_weights_makes_a_release_due(other: Defaults) -> None:
    assert asked_for(other) != asked_for(PLAIN)


def test_so_does_the_precision_that_is_asked_for() -> None:
    assert asked_for(PLAIN.model_copy(update={"dtype": "bfloat16"})) != asked_for(PLAIN)


@pytest.mark.parametrize("name", versions.OF_AN_EDIT)
def test_and_an_algorithm_that_gives_something_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = asked_for(PLAIN)
    monkeypatch.setitem(versions.OF_AN_EDIT, name, versions.OF_AN_EDIT[name] + 1)  # type: ignore[arg-type]
    assert asked_for(PLAIN) != before


def test_nothing_of_the_solve_is_in_the_key_of_a_target() -> None:
    solves = Editing(solver="emmet", covariance_weight=3.0, most_change=0.5, balance_rounds=0)
    assert solves.targets == Editing().targets
