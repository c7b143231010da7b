"""Layer Gradient Analysis: the activation identity, its options, and what the weights must not notice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import FACTS, tiny

from corrigenda.editing.localization.lga import KernelDots, kernel_dots, lga, reference_kernel_dots
from corrigenda.models.hooks import encode, mlp_matrices, tap, text_losses

FAMILIES = ("llama", "gpt2", "gemma3_text")
TRUE = [fact.target_true for fact in FACTS]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny(request.param)


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("loss", ["full", "answer"])
@pytest.mark.parametrize("matrices", ["all", "projection"])
def test_the_identity_equals_parameter_gradients(model, loss, matrices):
    fast = kernel_dots(model, FACTS, TRUE, loss=loss, matrices=matrices)
    plain = reference_kernel_dots(model, FACTS, TRUE, loss=loss, matrices=matrices)
    for name in ("cross", "old", "new"):
        np.testing.assert_allclose(getattr(fast, name), getattr(plain, name), rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("exactly")
def test_a_batch_says_what_each_fact_says_alone(model):
    together = kernel_dots(model, FACTS, TRUE).cross
    alone = [kernel_dots(model, [fact], [fact.target_true]).cross[:, 0] for fact in FACTS]
    np.testing.assert_allclose(together, np.stack(alone, 1), rtol=1e-9, atol=1e-12)


def test_every_mlp_matrix_counts():
    assert [len(mlp_matrices(tiny(kind), 0)) for kind in FAMILIES] == [3, 2, 3]
    assert len(mlp_matrices(tiny("gpt2"), 0, "projection")) == 1


def test_text_losses_are_those_of_the_network_itself(model):
    fact = FACTS[1]
    texts = encode(model, [fact.text], [fact.target_true])
    own = model.network(input_ids=texts.ids, labels=texts.ids).loss
    torch.testing.assert_close(text_losses(model, texts, "full")[0].float(), own.float())


def test_padding_is_told_nothing(model):
    texts = encode(model, [fact.text for fact in FACTS], TRUE)
    for found in tap(model, texts, mlp_matrices(model, 1)):
        assert not found.grads[~texts.mask].any()


def test_the_model_is_left_as_it_was(model):
    before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    lga(model, FACTS, TRUE)
    reference_kernel_dots(model, FACTS[:1], TRUE[:1])
    assert all(torch.equal(weight, before[name]) for name, weight in model.network.state_dict().items())
    assert not any(weight.requires_grad for weight in model.network.parameters())
    assert not any(module._forward_hooks for module in model.network.modules())


def test_the_score_is_the_sum_of_signed_dots(model):
    found = lga(model, FACTS, TRUE)
    np.testing.assert_allclose(found.scores, kernel_dots(model, FACTS, TRUE).cross.sum(1))
    assert found.kept[found.pick]
    assert found.scores[found.pick] == max(
        s for s, kept in zip(found.scores, found.kept, strict=True) if kept
    )


def test_the_same_text_twice_has_cosine_one(model):
    found = lga(model, FACTS, [fact.target_new for fact in FACTS])
    np.testing.assert_allclose(found.cosines, 1.0)


def test_mostly_negative_dots_are_told(monkeypatch):
    found = KernelDots(-np.ones((4, 6)), np.ones((4, 6)), np.ones((4, 6)))
    monkeypatch.setattr("corrigenda.editing.localization.lga.kernel_dots", lambda *_, **__: found)
    assert "100% of the per-fact dot products are negative" in lga(tiny("llama"), FACTS, TRUE).warnings[0]


def test_the_options_change_what_they_say():
    model = tiny("llama")
    plain = kernel_dots(model, FACTS, TRUE)
    assert not np.allclose(plain.cross, kernel_dots(model, FACTS, TRUE, loss="answer").cross)
    assert (plain.old > kernel_dots(model, FACTS, TRUE, matrices="projection").old).all()
