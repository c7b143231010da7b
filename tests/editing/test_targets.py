"""Targets: the fast path is the plain path, batches are many single facts, and the bits come back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import tiny
from trained import PROMPT

from corrigenda.editing.background.fisher import metric_of, output_fisher
from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.groups import Group, grouped
from corrigenda.editing.targets.optimise import optimise_targets, rows_of
from corrigenda.editing.targets.reference import reference_target
from corrigenda.errors import EditError
from corrigenda.facts import EditRequest
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.loading import load
from corrigenda.models.prefill import prefill
from corrigenda.models.prefix_cache import read_openings
from corrigenda.models.upper import finish
from corrigenda.settings import AdamDescent, TargetSettings

CONTEXTS = ("", "It is known. ", "People say so. ")
MEMIT = TargetSettings(descent=AdamDescent(), warm_steps=0, steps=6, products="float32")
OURS = TargetSettings(warm_steps=3, steps=3, contexts=1, products="float32")
FAMILIES = ("llama", "gpt2", "gemma3_text")
SINGLE, WIDE = Band.single(1), Band((0, 1, 2), (0.8, 1.0, 1.3))
BANDS = (("llama", SINGLE), ("llama", WIDE), ("gpt2", SINGLE), ("gpt2", WIDE), ("gemma3_text", SINGLE))


@pytest.fixture(scope="module")
def gpt2(trained_gpt2: Path) -> LanguageModel:
    return load(trained_gpt2, "cpu")


def request(name: str, city: str) -> EditRequest:
    return EditRequest(name, PROMPT, city)


ASKED = (request("Bohr", "Rome"), request("Gauss", "Vienna"), request("Curie", "Vienna"))
REQUESTS = tuple(Group((one,)) for one in ASKED)


def two_questions_about(name: str) -> Group:
    (group,) = grouped((EditRequest(name, PROMPT, "Rome"), EditRequest(name, PROMPT + " the", "Vienna")))
    return group


@pytest.mark.parametrize("layer", (0, 1))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_layers_above_alone_equal_the_full_forward(family: str, layer: int) -> None:
    model = tiny(family, dtype=torch.float32)
    rows = [row for r in REQUESTS for row in rows_of(model, r, CONTEXTS).rows]
    openings = read_openings(model, {row.tokens[: row.opening] for row in rows})
    assert openings is not None
    ready = prefill(model, layer, rows, openings)
    residual = torch.randn(len(rows), ready.projected.shape[-1], generator=torch.Generator().manual_seed(0))
    fast = finish(model, ready, residual)
    higher = torch.cat((residual, 0.5 * residual), dim=-1)
    wide = finish(model, ready, higher, (layer + 2,))
    for i, row in enumerate(rows):
        for found, added in (
            (fast, {layer: residual[i]}),
            (wide, {layer: residual[i], layer + 2: 0.5 * residual[i]}),
        ):
            plain = full_forward(model, row.tokens, row.lookup, added)[row.lookup :]
            torch.testing.assert_close(found[i, : len(row.tokens) - row.lookup], plain, atol=1e-4, rtol=1e-4)


def full_forward(
    model: LanguageModel, tokens: tuple[int, ...], lookup: int, added: dict[int, torch.Tensor]
) -> torch.Tensor:
    """Hidden states (length, d) when the projections' outputs at the lookup gain what is added, by layer."""

    def adds(residual: torch.Tensor) -> Callable[..., torch.Tensor]:
        def add(_module: object, _inputs: object, out: torch.Tensor) -> torch.Tensor:
            out = out.clone()
            out[0, lookup] += residual
            return out

        return add

    hooks = [model.projection(layer).register_forward_hook(adds(r)) for layer, r in added.items()]
    try:
        with torch.no_grad():
            hidden: torch.Tensor = model.body(input_ids=torch.tensor([tokens])).last_hidden_state[0]
        return hidden
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("settings", (MEMIT, OURS), ids=("memit", "ours"))
@pytest.mark.parametrize(("family", "band"), BANDS)
def test_batched_targets_equal_the_plain_algorithm_one_fact_at_a_time(
    family: str, band: Band, settings: TargetSettings
) -> None:
    model = tiny(family, dtype=torch.float32)
    facts = (*REQUESTS, two_questions_about("Euler"))
    background = torch.randint(2, 400, (4, 16), generator=torch.Generator().manual_seed(0))
    fisher = output_fisher(model, band.layers, background)
    metric = torch.stack([metric_of(fisher[layer]) for layer in band.layers])
    fast = optimise_targets(model, band, facts, CONTEXTS, settings, norm_cap=0.75, metric=metric)
    for found, asked in zip(fast, facts, strict=True):
        plain = reference_target(model, band, asked, CONTEXTS, settings, norm_cap=0.75, metric=metric)
        assert found.steps == plain.steps
        torch.testing.assert_close(found.residual, plain.residual, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(found.keys, plain.keys, atol=1e-4, rtol=1e-4)
        assert found.loss == pytest.approx(plain.loss, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_products_in_half_precision_lead_to_nearly_the_same_residuals(family: str) -> None:
    model = tiny(family, dtype=torch.float32)
    exact, halved = (
        optimise_targets(model, Band.single(1), REQUESTS, CONTEXTS, settings, norm_cap=0.75)
        for settings in (OURS, OURS.model_copy(update={"products": "bfloat16"}))
    )
    for a, b in zip(exact, halved, strict=True):
        assert torch.equal(a.keys, b.keys)
        assert not torch.equal(a.residual, b.residual)
        assert (a.residual - b.residual).norm() < 0.05 * a.residual.norm()


@pytest.mark.parametrize("products", ("float32", "bfloat16"))
@pytest.mark.parametrize(("family", "band"), BANDS)
def test_company_does_not_change_a_bit_of_a_fact(family: str, band: Band, products: str) -> None:
    # Widths of real models are multiples of a vector register; a remainder is rounded by other code.
    model = tiny(family, dtype=torch.float32, inner=64)
    names = (
        "Bohr",
        "Gauss",
        "Curie",
        "Euler",
        "Emmy Noether",
        "Ada",
        "Carl Friedrich Gauss",
        "Leonhard Euler",
    )
    facts = [Group((request(name, "Rome" if len(name) % 2 else "New York"),)) for name in names]
    settings = TargetSettings(warm_steps=4, steps=3, contexts=2, products=products)
    together = optimise_targets(model, band, facts, CONTEXTS, settings, norm_cap=1.5)
    for found, asked in zip(together, facts, strict=True):
        (alone,) = optimise_targets(model, band, [asked], CONTEXTS, settings, norm_cap=1.5)
        assert torch.equal(found.residual, alone.residual)
        assert torch.equal(found.keys, alone.keys)
        assert (found.loss, found.needed, found.steps) == (alone.loss, alone.needed, alone.steps)


def test_the_residual_stays_inside_the_norm_cap(gpt2: LanguageModel) -> None:
    (free,) = optimise_targets(gpt2, Band.single(0), REQUESTS[:1], CONTEXTS, TargetSettings(), norm_cap=100.0)
    asked = TargetSettings(norm_cap=0.01)
    (held,) = optimise_targets(gpt2, Band.single(0), REQUESTS[:1], CONTEXTS, asked, norm_cap=0.01)
    assert held.residual.norm() < 0.1 * free.residual.norm()


def test_a_known_fact_needs_no_residual(gpt2: LanguageModel) -> None:
    (found,) = optimise_targets(
        gpt2,
        Band.single(0),
        [Group((request("Bohr", "London"),))],
        ("It is known. ",),
        TargetSettings(stop_loss=0.5, contexts=1),
        norm_cap=1.5,
    )
    assert found.steps == 0
    assert not found.residual.any()


def test_only_facts_far_from_their_target_take_late_steps(gpt2: LanguageModel) -> None:
    night = TargetSettings(
        warm_steps=0, steps=3, late_steps=3, stop_loss=1e-6, contexts=1, products="float32"
    )

    def steps(late_loss: float) -> list[int]:
        settings = night.model_copy(update={"late_loss": late_loss})
        found = optimise_targets(gpt2, Band.single(0), REQUESTS, CONTEXTS, settings, norm_cap=1.5)
        alone = [
            reference_target(gpt2, Band.single(0), g, CONTEXTS, settings, norm_cap=1.5).steps
            for g in REQUESTS
        ]
        assert [target.steps for target in found] == alone
        return alone

    early = night.model_copy(update={"late_steps": 0})
    losses = [t.loss for t in optimise_targets(gpt2, Band.single(0), REQUESTS, CONTEXTS, early, norm_cap=1.5)]
    between = sum(sorted(losses)[:2]) / 2
    assert min(losses) < between
    assert steps(late_loss=between) == [2 if loss < between else 5 for loss in losses]


def test_a_subject_on_the_attention_sink_alone_is_refused(gpt2: LanguageModel) -> None:
    first = gpt2.tokenizer.decode(gpt2.tokenizer("Ada")["input_ids"][:1])
    alone = Group((EditRequest(first, "{} lives in", "Rome"),))
    with pytest.raises(EditError, match="first of the text"):
        rows_of(gpt2, alone, ("",))
    assert len(rows_of(gpt2, alone, ("", "It is known. ")).rows) == 1


def test_a_trial_gives_the_very_bits_back_even_after_an_error(gpt2: LanguageModel) -> None:
    before = gpt2.weight(1).clone()
    update = torch.randn(before.T.shape, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="on purpose"), gpt2.trial({1: update}):
        assert not torch.equal(gpt2.weight(1), before)
        raise RuntimeError("on purpose")
    assert torch.equal(gpt2.weight(1), before)
