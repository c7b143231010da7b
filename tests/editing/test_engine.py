"""Targets of a night: facts that need more room than most get it, each by itself."""

from __future__ import annotations

from math import isinf
from pathlib import Path

import pytest
import torch
from trained import CITIES, NAMES, PROMPT, home_of

from corrigenda.config import Editing
from corrigenda.editing.engine import find_targets
from corrigenda.editing.groups import Group
from corrigenda.editing.targets import optimise_targets
from corrigenda.facts import EditRequest
from corrigenda.models.loading import LanguageModel, load

REQUESTS = [EditRequest(name, PROMPT, next(c for c in CITIES if c != home_of(name))) for name in NAMES[:4]]
SETTINGS = Editing(contexts=0)


@pytest.fixture(scope="module")
def model(trained_gpt2: Path) -> LanguageModel:
    return load(trained_gpt2, "cpu")


def test_facts_that_no_residual_in_the_ball_says_get_a_wider_one(model: LanguageModel) -> None:
    found = find_targets(model, 0, REQUESTS, ("",), SETTINGS, norm_cap=0.1, cached={})
    for request in REQUESTS:
        target, cap = found.known[request.digest], 0.1
        (expected,) = optimise_targets(model, 0, [Group((request,))], ("",), SETTINGS, norm_cap=cap)
        assert isinf(expected.needed), "the test asks for facts that a narrow ball cannot hold"
        while isinf(expected.needed):
            cap *= 2
            (expected,) = optimise_targets(model, 0, [Group((request,))], ("",), SETTINGS, norm_cap=cap)
        assert torch.equal(target.residual, expected.residual) and target.needed == expected.needed


def test_a_cap_that_is_asked_for_holds(model: LanguageModel) -> None:
    asked = SETTINGS.model_copy(update={"norm_cap": 0.1})
    found = find_targets(model, 0, REQUESTS, ("",), asked, norm_cap=0.1, cached={})
    assert all(isinf(target.needed) for target in found.known.values())


def test_widening_ends_where_no_ball_is_wide_enough(model: LanguageModel) -> None:
    weak = SETTINGS.model_copy(update={"warm_steps": 0, "steps": 2, "first_step": 1e-4})
    found = find_targets(model, 0, REQUESTS[:1], ("",), weak, norm_cap=0.1, cached={})
    assert isinf(found.known[REQUESTS[0].digest].needed)
