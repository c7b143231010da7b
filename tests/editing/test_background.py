"""Background statistics: what they are of, that they resume, and that contexts are the model's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny
from torch import Tensor
from torch.testing import assert_close

from corrigenda.editing.background.contexts import generate_contexts
from corrigenda.editing.background.covariance import key_covariance, resumable_covariance
from corrigenda.editing.background.fisher import metric_of, output_fisher
from corrigenda.models.encoding import encode
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.lower import lookup_keys, projection_inputs

TEXT = torch.randint(2, 400, (6, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3_text"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny(request.param)


def test_the_fisher_information_is_that_of_single_texts(model: LanguageModel) -> None:
    """One text at a time, one position after the other, by hand: the gradient at the projection's output."""
    found = output_fisher(model, [1, 2], TEXT, seed=3)
    generator = torch.Generator().manual_seed(3)
    for layer in (2, 1):
        total = torch.zeros_like(found[layer])
        generator = torch.Generator().manual_seed(3)
        gradients = gradients_by_hand(model, layer, generator)
        for row in gradients:
            for position in range(1, TEXT.shape[1] - 1):
                total += torch.outer(row[position], row[position])
        assert_close(found[layer], total / (len(TEXT) * (TEXT.shape[1] - 2)), rtol=1e-4, atol=1e-8)


def gradients_by_hand(model: LanguageModel, layer: int, generator: torch.Generator) -> Tensor:
    from corrigenda.models.sampling import drawn

    shift = torch.zeros(*TEXT.shape, 32, dtype=torch.float64, requires_grad=True)
    hook = model.projection(layer).register_forward_hook(lambda _m, _i, out: out + shift)
    try:
        logits = model.network(input_ids=TEXT).logits[:, :-1].float()
    finally:
        hook.remove()
    said = drawn(logits.flatten(0, 1).detach(), generator)
    loss = -logits.log_softmax(-1).flatten(0, 1).gather(1, said).sum()
    (gradient,) = torch.autograd.grad(loss, shift)
    return gradient


def test_the_metric_shortens_what_harms_most(model: LanguageModel) -> None:
    fisher = output_fisher(model, [1], TEXT)[1]
    values, vectors = torch.linalg.eigh(fisher)
    metric = metric_of(fisher).double()
    assert_close(metric, metric.T)
    harmful, harmless = vectors[:, -1], vectors[:, 0]
    assert float(harmful @ metric @ harmful) < float(harmless @ metric @ harmless)
    assert values[-1] > values[0]


def test_a_covariance_that_was_cut_off_goes_on_where_it_stopped(model: LanguageModel, tmp_path: Path) -> None:
    part = tmp_path / "part"
    undisturbed = resumable_covariance(model, [1], TEXT, part, chunk_tokens=24)[1]
    assert not part.exists()
    read: list[int] = []

    def die(tokens: int) -> None:
        read.append(tokens)
        if len(read) == 4:  # the first call says what was there already
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resumable_covariance(model, [1], TEXT, part, chunk_tokens=24, advance=die)[1]
    done: list[int] = []
    again = resumable_covariance(model, [1], TEXT, part, chunk_tokens=24, advance=done.append)[1]
    assert torch.equal(again, undisturbed)
    assert done[0] > 0 and sum(done) == TEXT.numel()
    assert_close(again, key_covariance(model, [1], TEXT)[1], rtol=1e-4, atol=1e-5)  # float32 blocks


def test_a_damaged_part_is_as_good_as_none(model: LanguageModel, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"half a file")
    assert_close(
        resumable_covariance(model, [1], TEXT, part)[1],
        key_covariance(model, [1], TEXT)[1],
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.usefixtures("exactly")
def test_keys_at_the_lookup_are_those_of_the_whole_text(model: LanguageModel) -> None:
    prompts = ("{} was born in", "The home of {} is the town of", "People say that {} comes from")
    rows = [encode(model.tokenizer, prompt, "Ada Lovelace") for prompt in prompts]
    found = lookup_keys(model, [2], rows)[:, 0]
    for row, key in zip(rows, found, strict=True):
        whole = projection_inputs(model, [2], input_ids=torch.tensor([row.tokens]))[2]
        assert_close(key, whole[0, row.lookup])


def test_contexts_are_the_same_for_ever_and_start_with_none(model: LanguageModel) -> None:
    contexts = generate_contexts(model, 4, 6, seed=0)
    assert contexts == generate_contexts(model, 4, 6, seed=0)
    assert contexts[0] == "" and len(contexts) == 5
    assert all(context.endswith(". ") and "{}" not in context for context in contexts[1:])
    assert generate_contexts(model, 0, 6, seed=0) == ("",)
