"""Many texts in one forward: beginnings that texts share are read once, and texts are not padded.

A tree holds texts token by token; a token sees those before it in its own text and no others, whatever
stands beside it. Knows tokens and attention; nothing of probes. That each text reads as it would alone is
held by a test for every family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from corrigenda.models.loading import LanguageModel

ROOT = -1


@dataclass(slots=True, eq=False)
class Tree:
    """Texts that go through the network in one row. A node is named by its number.

    tokens   by node
    parents  by node: the node before it in its text, which has a smaller number, or ROOT
    paths    by node, of those that were read: the columns of its text's tokens, its own the last
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)
    _children: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, tokens: Sequence[int], parent: int = ROOT) -> list[int]:
        """The nodes of `tokens` behind `parent`; only those that are not there yet are made."""
        nodes = []
        for token in tokens:
            node = self._children.get((parent, token))
            if node is None:
                node = self._children[parent, token] = self.grow(token, parent)
            nodes.append(node)
            parent = node
        return nodes

    def grow(self, token: int, parent: int) -> int:
        """A node of its own, even where there is one like it."""
        self.tokens.append(token)
        self.parents.append(parent)
        return len(self.tokens) - 1

    def lacks(self, tokens: Sequence[int]) -> int:
        """How many nodes `add` would make."""
        parent = ROOT
        for place, token in enumerate(tokens):
            known = self._children.get((parent, token))
            if known is None:
                return len(tokens) - place
            parent = known
        return 0

    def place(self, column: int) -> range:
        """Give the nodes that are not read yet columns from `column` on; these nodes."""
        new = range(len(self.paths), len(self.tokens))
        for node in new:
            parent = self.parents[node]
            before = [] if parent == ROOT else self.paths[parent]
            self.paths.append([*before, column + node - new.start])
        return new


class Grove:
    """Trees side by side in a network, which can grow and be read on."""

    def __init__(self, model: LanguageModel, trees: Sequence[Tree]) -> None:
        self.model, self.trees = model, trees
        # Made without the configuration: no layer forgets what lies outside of its window, for columns are
        # no positions.
        self.cache = DynamicCache()
        self.columns = 0

    def read(self, wanted: Sequence[tuple[int, int]]) -> Tensor:
        """Read the nodes that were not read before.

        wanted   (tree, node) of nodes that are read now
        returns  (wanted, d) hidden states after the final norm, in their order
        """
        new = [tree.place(self.columns) for tree in self.trees]
        widest = max(map(len, new))
        tokens = torch.zeros((len(new), widest), dtype=torch.long)
        positions = torch.zeros_like(tokens)
        for row, (tree, nodes) in enumerate(zip(self.trees, new, strict=True)):
            tokens[row, : len(nodes)] = torch.tensor(tree.tokens[nodes.start :], dtype=torch.long)
            depths = [len(path) - 1 for path in tree.paths[nodes.start :]]
            positions[row, : len(nodes)] = torch.tensor(depths, dtype=torch.long)
        device = self.model.device
        hidden = self.model.body(
            input_ids=tokens.to(device),
            position_ids=positions.to(device),
            attention_mask=self._mask(new, widest),
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        self.columns += widest
        rows = torch.tensor([row for row, _ in wanted], device=device)
        places = torch.tensor([node - new[row].start for row, node in wanted], device=device)
        found: Tensor = hidden[rows, places]
        return found

    def _mask(self, new: Sequence[range], widest: int) -> Any:
        """The additive mask, or the masks by kind of layer: eager attention adds what it is given."""
        config = self.model.network.config.get_text_config()
        kinds = getattr(config, "layer_types", None) or ()
        window = getattr(config, "sliding_window", None)
        if "sliding_attention" in kinds:
            return {
                "full_attention": self._allowed(new, widest, None),
                "sliding_attention": self._allowed(new, widest, window),
            }
        return self._allowed(new, widest, None if kinds else window)

    def _allowed(self, new: Sequence[range], widest: int, window: int | None) -> Tensor:
        """(trees, 1, widest, columns): 0 where a node may look, the lowest number elsewhere."""
        dtype = self.model.network.dtype
        total = self.columns + widest
        seen = torch.full((len(new), 1, widest, total), torch.finfo(dtype).min, dtype=dtype)
        # What only fills a row up sees itself: a softmax over nothing would be NaN, and NaN spreads.
        seen[:, 0, range(widest), range(self.columns, total)] = 0
        for row, (tree, nodes) in enumerate(zip(self.trees, new, strict=True)):
            paths = [path if window is None else path[-window:] for path in tree.paths[nodes.start :]]
            places = [place for place, path in enumerate(paths) for _ in path]
            seen[row, 0, places, [column for path in paths for column in path]] = 0
        return seen.to(self.model.device)
