"""What is measured before an edit: once, under all that it depends on."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from bases import BASE, of_base
from tiny_models import FACTS, tiny

from corrigenda.editing.targets import norm_cap
from corrigenda.pipeline.background import measure_background
from corrigenda.pipeline.base import Base
from corrigenda.settings import NormalisedDescent, TargetSettings


@pytest.fixture
def measured(monkeypatch):
    """Counts how often a norm cap is really measured."""
    counted, real = [], norm_cap.proxy_norm_cap
    monkeypatch.setattr(norm_cap, "proxy_norm_cap", lambda *args: counted.append(1) or real(*args))
    return counted


PLAIN = TargetSettings(contexts=1, key_contexts=1, descent=NormalisedDescent(metric="plain"))


def change(night, **settings):
    editing = night.settings.editing.model_copy(update=settings)
    night.settings = night.settings.model_copy(update={"editing": editing})


def test_a_norm_cap_is_measured_once_for_all_that_it_depends_on(night, tmp_path, measured):
    model = tiny("llama", dtype=torch.float32)
    change(night, targets=PLAIN)
    first = measure_background(Base(night, BASE, model), 1)
    assert 0 < first.norm_cap < norm_cap.FREE
    again = measure_background(Base(night, BASE, model), 1)
    assert again.norm_cap == first.norm_cap and len(measured) == 1
    change(night, most_change=0.5)
    assert measure_background(Base(night, BASE, model), 1).norm_cap == first.norm_cap and len(measured) == 1
    measure_background(Base(night, BASE, model), 2)
    measure_background(Base(night, of_base(weights_digest="other"), model), 1)
    change(night, targets=PLAIN.model_copy(update={"seed": 3}))
    measure_background(Base(night, BASE, model), 1)
    assert len(measured) == 4
    own = tmp_path / "facts.jsonl"
    own.write_text("\n".join(json.dumps(asdict(fact)) for fact in FACTS), encoding="utf-8")
    localization = night.settings.localization.model_copy(update={"proxy_facts": str(own)})
    night.settings = night.settings.model_copy(update={"localization": localization})
    measure_background(Base(night, BASE, model), 1)
    assert len(measured) == 5
