"""Many texts in one forward: beginnings that texts share are read once, and texts are not padded.

A tree holds texts token by token; a token sees those before it in its own text and no others, whatever
stands beside it. Knows tokens and attention; nothing of probes. That each text reads as it would alone is
held by a test for every family.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from corrigenda.models.language_model import LanguageModel

ROOT = -1
# Texts that go together where trees cannot be read.
PLAIN_ROWS = 64


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

    def text(self, node: int) -> tuple[int, ...]:
        """The tokens up to a node, its own the last."""
        tokens = []
        while node != ROOT:
            tokens.append(self.tokens[node])
            node = self.parents[node]
        return tuple(reversed(tokens))


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
        if self.model.plain:
            return _read_plainly(self.model, [self.trees[row].text(node) for row, node in wanted])
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
        windows = set(self.model.windows)
        masks = {window: self._allowed(new, widest, window) for window in windows}
        if "sliding_attention" not in (getattr(self.model.config, "layer_types", None) or ()):
            return masks.popitem()[1]
        # Networks ask for both kinds, whichever their layers are of.
        any_mask = next(iter(masks.values()))
        narrow = next((mask for window, mask in masks.items() if window is not None), any_mask)
        return {"full_attention": masks.get(None, any_mask), "sliding_attention": narrow}

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


@torch.no_grad()
def _read_plainly(model: LanguageModel, texts: Sequence[tuple[int, ...]]) -> Tensor:
    """Hidden states (texts, d) behind each text, read whole; a text that begins another is read with it."""
    known = sorted(set(texts))
    whole = [a for a, b in zip(known, [*known[1:], ()], strict=True) if b[: len(a)] != a]
    states: list[Tensor] = []
    for first in range(0, len(whole), PLAIN_ROWS):
        some = whole[first : first + PLAIN_ROWS]
        width = max(map(len, some))
        tokens = torch.tensor([[*text, *[0] * (width - len(text))] for text in some], device=model.device)
        present = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in some], device=model.device)
        states += model.body(input_ids=tokens, attention_mask=present, use_cache=False).last_hidden_state
    return torch.stack([states[bisect_left(whole, text)][len(text) - 1] for text in texts])
