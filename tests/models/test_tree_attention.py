"""Whatever stands beside a text in a tree, it reads as it would alone, in every family."""

from __future__ import annotations

import pytest
import torch
from zoo import FAMILIES, model_of

from corrigenda.models.language_model import LanguageModel
from corrigenda.models.tree_attention import ROOT, Grove, Tree

TEXTS = ([3, 4, 5, 6, 7, 8, 9], [3, 4, 5, 10], [3, 4, 11, 12, 13, 14], [20, 21], [3, 4, 5], [20, 22, 23, 24])


def alone(model: LanguageModel, text: list[int]) -> torch.Tensor:
    with torch.no_grad():
        states: torch.Tensor = model.body(input_ids=torch.tensor([text])).last_hidden_state[0]
    return states


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_text_in_a_tree_reads_as_it_does_alone(kind: str) -> None:
    model = model_of(kind)
    trees = [Tree(), Tree()]
    nodes = [(place % 2, trees[place % 2].add(text)) for place, text in enumerate(TEXTS)]
    grove = Grove(model, trees)
    with torch.no_grad():
        found = grove.read([(tree, node) for tree, path in nodes for node in path])
        grown = [(tree, trees[tree].grow(30 + i, path[-1])) for i, (tree, path) in enumerate(nodes[:3])]
        later = grove.read(grown)
    want = torch.cat([alone(model, text) for text in TEXTS])
    torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-4)
    behind = torch.stack([alone(model, [*text, 30 + i])[-1] for i, text in enumerate(TEXTS[:3])])
    torch.testing.assert_close(later, behind, rtol=1e-3, atol=1e-4)


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
