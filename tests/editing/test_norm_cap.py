"""The norm cap that "auto" stands for: a multiple of what proxy facts take, and the model's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import FACTS, tiny

from corrigenda.editing.targets import norm_cap as measured
from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.groups import Group
from corrigenda.editing.targets.norm_cap import LEAST, MULTIPLE, proxy_norm_cap
from corrigenda.editing.targets.objective import Batch
from corrigenda.editing.targets.optimise import natural_lengths, optimise_targets, rows_of
from corrigenda.editing.targets.scale import FREE
from corrigenda.facts import EditRequest
from corrigenda.models.language_model import LanguageModel
from corrigenda.settings import TargetSettings

# What a descent must be told to do no more than the first phase of a night's.
FIRST_PHASE = {"contexts": 0, "key_contexts": 0, "warm_steps": 0, "kl_weight": 0.0}
GROUPS = [Group((EditRequest(fact.subject, fact.prompt, fact.target_new),)) for fact in FACTS]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny(request.param, dtype=torch.float32)


def test_natural_lengths_are_those_of_a_descent_on_plain_prompts(model: LanguageModel) -> None:
    # In bfloat16, which `auto` takes where it is fast, both round alike only to some thousandths.
    night = TargetSettings(products="float32")
    behind = {"steps": night.warm_steps, "late_steps": 0, "stop_loss": night.warm_loss}
    settings = TargetSettings(**FIRST_PHASE, **behind, products=night.products)
    found = optimise_targets(model, Band.single(1), GROUPS, ("",), settings, norm_cap=FREE)
    scales = [
        float(Batch.of(model, Band.single(1), [rows_of(model, group, ("",))], None, settings).scale)
        for group in GROUPS
    ]
    shares = [float(t.residual.norm()) / scale for t, scale in zip(found, scales, strict=True)]
    lengths = natural_lengths(model, Band.single(1), GROUPS, night)
    assert lengths.tolist() == pytest.approx(shares, rel=1e-4)
    assert min(shares) > 0 and max(shares) <= FREE * 1.0001


def test_the_cap_is_a_multiple_of_the_median_length(model: LanguageModel) -> None:
    lengths = natural_lengths(model, Band.single(1), GROUPS, TargetSettings()).tolist()
    expected = max(LEAST, MULTIPLE * sorted(lengths)[(len(lengths) - 1) // 2])
    assert proxy_norm_cap(model, Band.single(1), FACTS, TargetSettings(), None) == pytest.approx(
        expected, abs=6e-4
    )


def test_a_number_is_taken_as_it_is(model: LanguageModel) -> None:
    assert proxy_norm_cap(model, Band.single(1), FACTS, TargetSettings(norm_cap=0.4), None) == 0.4


def test_facts_that_the_model_cannot_take_are_not_measured(model: LanguageModel) -> None:
    first = model.tokenizer.decode(model.tokenizer("Ada")["input_ids"][:1])
    alone = replace(FACTS[0], subject=first, prompt="{} lives in")
    assert proxy_norm_cap(model, Band.single(1), [alone], TargetSettings(), None) == FREE
    assert proxy_norm_cap(model, Band.single(1), [*FACTS, alone], TargetSettings(), None) == proxy_norm_cap(
        model, Band.single(1), FACTS, TargetSettings(), None
    )


def test_no_cap_holds_where_a_norm_stands_behind_the_projection() -> None:
    assert (
        proxy_norm_cap(
            tiny("gemma3_text", dtype=torch.float32), Band.single(1), FACTS, TargetSettings(), None
        )
        == FREE
    )


def test_facts_that_are_said_already_do_not_count(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cap_of(*lengths: float) -> float:
        monkeypatch.setattr(measured, "natural_lengths", lambda *_a, **_k: torch.tensor(lengths))
        return proxy_norm_cap(model, Band.single(1), FACTS, TargetSettings(), None)

    assert cap_of(0.0, 0.0, 0.0, 0.4, 0.5, 0.6) == pytest.approx(0.5 * MULTIPLE)
    assert cap_of(0.0, 0.0) == FREE
    assert cap_of(0.001) == LEAST
