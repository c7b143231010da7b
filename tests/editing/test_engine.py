"""How long residuals may be: one cap for all facts, and more for those that take more by themselves."""

from __future__ import annotations

from math import isinf
from pathlib import Path

import pytest
import torch
from trained import CITIES, NAMES, PROMPT, home_of

from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.engine import find_targets
from corrigenda.editing.targets.groups import Group
from corrigenda.editing.targets.optimise import _OWN, natural_lengths
from corrigenda.editing.targets.target import Target
from corrigenda.facts import EditRequest
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.loading import load
from corrigenda.settings import TargetSettings

REQUESTS = [EditRequest(name, PROMPT, next(c for c in CITIES if c != home_of(name))) for name in NAMES[:4]]
SETTINGS = TargetSettings(contexts=0)


@pytest.fixture(scope="module")
def model(trained_gpt2: Path) -> LanguageModel:
    return load(trained_gpt2, "cpu")


def targets(model: LanguageModel, settings: TargetSettings, norm_cap: float) -> list[Target]:
    found = find_targets(model, Band.single(0), REQUESTS, ("",), settings, norm_cap=norm_cap, cached={})
    return [found.known[request.digest] for request in REQUESTS]


def test_a_fact_keeps_a_share_of_the_length_that_it_takes_by_itself(model: LanguageModel) -> None:
    held = SETTINGS.model_copy(update={"norm_cap": 0.1})
    balls = torch.stack([target.residual.norm() for target in targets(model, held, 0.1)])  # 0.1 of the scale
    natural = natural_lengths(model, Band.single(0), [Group((request,)) for request in REQUESTS], SETTINGS)
    assert bool((_OWN * natural > 0.1).all())
    longest = _OWN * natural * balls / 0.1
    for target, most in zip(targets(model, SETTINGS, 0.1), longest.tolist(), strict=True):
        assert 0.11 / 0.1 * float(balls.min()) < float(target.residual.norm()) <= most * 1.001
        assert not isinf(target.needed)


def test_a_cap_that_is_asked_for_holds(model: LanguageModel) -> None:
    asked = SETTINGS.model_copy(update={"norm_cap": 0.1})
    assert all(isinf(target.needed) for target in targets(model, asked, 0.1))


def test_a_wider_cap_holds_for_facts_that_take_less(model: LanguageModel) -> None:
    wide, wider = (targets(model, SETTINGS, cap) for cap in (1.4, 1.5))
    assert all(torch.equal(a.residual, b.residual) for a, b in zip(wide, wider, strict=True))
