"""What a language model shares, and what it takes from its network."""

from __future__ import annotations

import pytest
import torch
from zoo import model_of

TOKENS = torch.arange(2, 14)[None]


def logits(model):
    return model.network(input_ids=TOKENS, use_cache=False).logits


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_a_candidate_beside_its_base_holds_the_edited_weights_alone(kind):
    base = model_of(kind)
    before = logits(base)
    edited = base.beside({1: base.weight(1) + 0.1})
    own = {id(one) for one in base.network.parameters()}
    assert sum(id(one) not in own for one in edited.network.parameters()) == 1
    assert torch.equal(logits(base), before)
    with base.trial({1: torch.full_like(base.linear_map(1), 0.1).double()}):
        torch.testing.assert_close(logits(edited), logits(base))
    assert not torch.allclose(logits(edited), before)
    torch.testing.assert_close(edited.logits(edited.body(input_ids=TOKENS).last_hidden_state), logits(edited))


@pytest.mark.parametrize("kind", ["granite", "cohere", "gemma2"])
def test_logits_are_the_networks_own_with_its_scale_and_cap(kind):
    model = model_of(kind)
    states = model.body(input_ids=TOKENS).last_hidden_state
    torch.testing.assert_close(model.logits(states), logits(model))
    bare = model.network.get_output_embeddings()(states)
    assert not torch.allclose(bare, logits(model), rtol=1e-3)
