"""What a model says to prompts and their continuations, token by token, with no work done twice.

Prompts and what may follow them lie in trees (`models.tree_attention`): a beginning that many share is read
once, all continuations of a prompt are read with it in one forward, and logits are computed only behind
tokens that something is asked of. Knows tokens; nothing of probes or texts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from corrigenda.models.encoding import Tokens
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.tree_attention import Grove, Tree

LOGITS_AT_ONCE = 2**24  # floats; 64 MiB
TREE_TOKENS = 128  # attention costs a tree's square; beginnings are shared within a tree only
SORTED_AT_ONCE = 64  # trees
NOTHING = -1  # stands for the token that a model chooses which answers with NaN


@dataclass(slots=True)
class Continuation:
    """Tokens after a prompt, and the model's verdict on them once it has read them.

    logps    by token, nats; NaN from a model that answers with NaN
    rank     of the first token among all; 1 is the likeliest
    argmax   the likeliest token at each position, given the tokens before it
    """

    tokens: Tokens
    logps: list[float] = field(default_factory=list)
    rank: int = 0
    argmax: list[int] = field(default_factory=list)

    @property
    def logp(self) -> float:
        """Nats, mean over the tokens; -inf from a model that answers with NaN."""
        mean = sum(self.logps) / len(self.tokens)
        return mean if mean == mean else float("-inf")

    @property
    def agreed(self) -> list[int]:
        """The greedy continuation as far as reading `tokens` shows it: up to the first other choice."""
        for position, (said, wanted) in enumerate(zip(self.argmax, self.tokens, strict=True)):
            if said != wanted:
                return self.argmax[: position + 1]
        return self.argmax


@dataclass(slots=True)
class Reading:
    """A prompt with everything that is asked of it.

    wanted   tokens of greedy continuation to find
    asked    how many probes ask
    over     whether the greedy continuation has come to its natural stop; None where none is looked for
    most     tokens after which it is not looked for any longer
    """

    prompt: Tokens
    continuations: dict[Tokens, Continuation] = field(default_factory=dict)
    wanted: int = 1
    asked: int = 0
    over: Callable[[list[int]], bool] | None = None
    most: int = 0
    greedy: list[int] = field(default_factory=list)

    @property
    def longest(self) -> int:
        """Tokens of prompt and continuation, at the most."""
        return len(self.prompt) + max(self.wanted, *(len(tokens) for tokens in self.continuations))

    @property
    def goes_on(self) -> bool:
        """Whether more of the greedy continuation is to be found."""
        if len(self.greedy) < self.wanted:
            return True
        searching = self.over is not None and len(self.greedy) < self.most and NOTHING not in self.greedy
        return searching and self.over is not None and not self.over(self.greedy)

    @property
    def known(self) -> list[int]:
        """The greedy continuation as far as reading the continuations has shown it."""
        return max((c.agreed for c in self.continuations.values()), key=len)[: self.wanted]


def leave_unread(reading: Reading, vocabulary: int) -> None:
    """The verdicts of a model that cannot read this, and says nothing to it."""
    for continuation in reading.continuations.values():
        count = len(continuation.tokens)
        continuation.logps = [float("nan")] * count
        continuation.argmax = [NOTHING] * count
        continuation.rank = vocabulary
    reading.greedy = [NOTHING] * reading.wanted


class Question(NamedTuple):
    """What is asked of the logits behind a node: the verdict on `continuation.tokens[position]`."""

    continuation: Continuation
    position: int


@dataclass(slots=True)
class Planted:
    """Readings in one tree.

    ends       the last node of each prompt
    questions  by node
    """

    tree: Tree = field(default_factory=Tree)
    readings: list[Reading] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    questions: dict[int, list[Question]] = field(default_factory=lambda: defaultdict(list))

    def plant(self, reading: Reading) -> None:
        end = self.tree.add(reading.prompt)[-1]
        self.readings.append(reading)
        self.ends.append(end)
        for continuation in reading.continuations.values():
            behind = self.tree.add(continuation.tokens[:-1], end)
            for position, node in enumerate([end, *behind]):
                self.questions[node].append(Question(continuation, position))

    def takes(self, reading: Reading) -> bool:
        """Whether there is room; a tree without readings takes one of any length."""
        more = self.tree.lacks(reading.prompt) + sum(len(tokens) - 1 for tokens in reading.continuations)
        return not self.readings or len(self.tree.tokens) + more <= TREE_TOKENS


_Place = tuple[int, int]  # a tree of a batch, and a node of it


def batches(readings: Iterable[Reading], batch_tokens: int) -> Iterator[list[Planted]]:
    """Trees of about one size, at most `batch_tokens` tokens together; a larger tree goes alone.

    Trees are made as they are needed and sorted a few at a time: ten thousand prompts take no more memory
    than their figures do.
    """
    trees = _planted(readings)
    while some := sorted(islice(trees, SORTED_AT_ONCE), key=lambda one: -len(one.tree.tokens)):
        batch: list[Planted] = []
        for planted in some:
            if batch and (len(batch) + 1) * len(batch[0].tree.tokens) > batch_tokens:
                yield batch
                batch = []
            batch.append(planted)
        yield batch


def _planted(readings: Iterable[Reading]) -> Iterator[Planted]:
    """Trees that hold all readings, such as begin alike together."""
    planted = Planted()
    for reading in sorted(readings, key=lambda reading: reading.prompt):
        if not planted.takes(reading):
            yield planted
            planted = Planted()
        planted.plant(reading)
    if planted.readings:
        yield planted


def read(model: LanguageModel, batch: Sequence[Planted]) -> None:
    """Fill in the verdicts and greedy continuations of one batch."""
    grove = Grove(model, [planted.tree for planted in batch])
    # By number: a node comes behind its parent, so that a continuation is judged from its first token on.
    places = [(row, node) for row, planted in enumerate(batch) for node in sorted(planted.questions)]
    hidden = grove.read(places)
    for some in _spans(len(places), model.network.config.get_text_config().vocab_size):
        asked = [batch[row].questions[node] for row, node in places[some]]
        _judge(model.logits(hidden[some]), asked)
    _decode_greedily(model, grove, batch)


def _spans(count: int, vocabulary: int) -> Iterator[slice]:
    """So many rows at a time that their logits stay within the bound."""
    step = max(1, LOGITS_AT_ONCE // vocabulary)
    return (slice(first, first + step) for first in range(0, count, step))


def _judge(logits: Tensor, asked: Sequence[Sequence[Question]]) -> None:
    """`logits` (n, vocabulary), and what is asked of each row."""
    said = logits.argmax(-1).tolist()
    questions = [(row, question) for row, some in enumerate(asked) for question in some]
    rows = torch.tensor([row for row, _ in questions], device=logits.device)
    tokens = torch.tensor([q.continuation.tokens[q.position] for _, q in questions], device=logits.device)
    chosen = logits[rows, tokens]
    logps = (chosen - logits.logsumexp(-1)[rows]).tolist()
    for place, ((row, question), logp) in enumerate(zip(questions, logps, strict=True)):
        continuation, known = question.continuation, logp == logp
        continuation.logps.append(logp)
        continuation.argmax.append(said[row] if known else NOTHING)
        if question.position == 0:
            above = int((logits[row] > chosen[place]).sum()) if known else logits.shape[-1] - 1
            continuation.rank = above + 1


def _decode_greedily(model: LanguageModel, grove: Grove, batch: Sequence[Planted]) -> None:
    """Go on to `wanted` tokens where the greedy continuation is not known from what was read."""
    left: list[tuple[int, int, Reading]] = []  # tree, node of the last token but one that was said, reading
    for row, planted in enumerate(batch):
        for end, reading in zip(planted.ends, planted.readings, strict=True):
            reading.greedy = reading.known
            if reading.greedy[0] == NOTHING:
                reading.greedy = [NOTHING] * reading.wanted
            elif reading.goes_on:
                left.append((row, [end, *planted.tree.add(reading.greedy[:-1], end)][-1], reading))
    while left:
        grown = [(row, grove.trees[row].grow(r.greedy[-1], node)) for row, node, r in left]
        hidden = grove.read(grown)
        for some in _spans(len(left), model.network.config.get_text_config().vocab_size):
            said = model.logits(hidden[some]).argmax(-1).tolist()
            for (_, _, reading), token in zip(left[some], said, strict=True):
                reading.greedy.append(token)
        left = [
            (row, node, reading)
            for (row, node), (_, _, reading) in zip(grown, left, strict=True)
            if reading.goes_on
        ]
