"""Whatever stands beside a text in a tree, it reads as it would alone, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from corrigenda.models.families import FAMILIES, family_of
from corrigenda.models.loading import LanguageModel
from corrigenda.models.tree_attention import ROOT, Grove, Tree

VOCABULARY = 50
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4,
    "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {"intermediate_size": 48, "num_key_value_heads": 2}
OWN: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt_neox": {"intermediate_size": 48},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "mistral": {"sliding_window": 4},
    "phi3": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
}  # fmt: skip
TEXTS = ([3, 4, 5, 6, 7, 8, 9], [3, 4, 5, 10], [3, 4, 11, 12, 13, 14], [20, 21], [3, 4, 5], [20, 22, 23, 24])


def tiny(kind: str) -> LanguageModel:
    own = OWN.get(kind, {})
    config = AutoConfig.for_model(kind, **SMALL, **({} if kind in ("gpt2", "gpt_neox") else GROUPED), **own)
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double()
    for weight in network.parameters():  # the usual initialisation is so small that nothing happens
        torch.nn.init.normal_(weight, std=0.3 if weight.ndim > 1 else 0.1)
    return LanguageModel(network.eval().requires_grad_(False), None, family_of(kind), torch.device("cpu"))


def alone(model: LanguageModel, text: list[int]) -> torch.Tensor:
    with torch.no_grad():
        states: torch.Tensor = model.body(input_ids=torch.tensor([text])).last_hidden_state[0]
    return states


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("kind", FAMILIES)
def test_a_text_in_a_tree_reads_as_it_does_alone(kind: str) -> None:
    model = tiny(kind)
    trees = [Tree(), Tree()]
    nodes = [(place % 2, trees[place % 2].add(text)) for place, text in enumerate(TEXTS)]
    grove = Grove(model, trees)
    with torch.no_grad():
        found = grove.read([(tree, node) for tree, path in nodes for node in path])
        grown = [(tree, trees[tree].grow(30 + i, path[-1])) for i, (tree, path) in enumerate(nodes[:3])]
        later = grove.read(grown)
    want = torch.cat([alone(model, text) for text in TEXTS])
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9)
    behind = torch.stack([alone(model, [*text, 30 + i])[-1] for i, text in enumerate(TEXTS[:3])])
    torch.testing.assert_close(later, behind, rtol=1e-9, atol=1e-9)


def test_a_shared_beginning_is_kept_once() -> None:
    tree = Tree()
    first = tree.add([1, 2, 3])
    assert tree.lacks([1, 2, 4, 5]) == 2
    assert tree.add([1, 2, 4, 5])[:2] == first[:2]
    assert len(tree.tokens) == 5
    assert tree.lacks([1, 2]) == 0
    assert tree.parents[first[0]] == ROOT


def test_a_node_that_was_grown_is_its_own() -> None:
    tree = Tree()
    (root,) = tree.add([1])
    assert len({tree.grow(2, root), tree.grow(2, root), *tree.add([2], root)}) == 3
