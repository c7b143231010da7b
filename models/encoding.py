"""From prompts to token rows: where the subject ends, where the target begins, and how rows align.

Knows tokenizers; nothing of layers or losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corrigenda.errors import EditError


@dataclass(frozen=True, slots=True)
class Row:
    """One text as the editor sees it.

    tokens   prompt tokens followed by all but the last target token (the last is only predicted)
    lookup   index of the subject's last token: where keys are read and residuals act
    targets  the target's tokens; token j is predicted at position len(tokens) - len(targets) + j
    opening  how many of the tokens are the context's, and so are the same for all prompts behind it
    """

    tokens: tuple[int, ...]
    lookup: int
    targets: tuple[int, ...] = ()
    opening: int = 0

    @property
    def first_prediction(self) -> int:
        return len(self.tokens) - len(self.targets)


def target_tokens(tokenizer: Any, target: str) -> tuple[int, ...]:
    """Tokens of a completion that follows a prompt: one blank, then the target."""
    return tuple(tokenizer(" " + target, add_special_tokens=False)["input_ids"])


def encode(tokenizer: Any, prompt: str, subject: str, target: str | None = None, context: str = "") -> Row:
    """Tokens of `context + prompt`, with the subject in the place of `{}`, and the target's.

    Raises EditError when no token ends the subject (an empty subject, for instance).
    """
    before, after = prompt.split("{}", 1)
    text = (context + before + subject + after).rstrip()
    last = len(context) + len(before) + len(subject.rstrip()) - 1
    encoded = tokenizer(text, return_offsets_mapping=True)
    spans = encoded["offset_mapping"]
    lookup = next((i for i, (start, end) in enumerate(spans) if start <= last < end), None)
    if lookup is None or not subject.strip():
        raise EditError(
            "the subject has no token of its own",
            remedy="Check that the subject is not empty and stands in the prompt's `{}`",
            subject=subject,
            prompt=prompt,
        )
    tokens = tuple(encoded["input_ids"])
    opening = _opening(tokenizer, context, tokens, lookup)
    if target is None:
        return Row(tokens, lookup, opening=opening)
    wanted = target_tokens(tokenizer, target)
    if not wanted:
        raise EditError("the target has no token", remedy="Give a target that is not empty", target=target)
    return Row((*tokens, *wanted[:-1]), lookup, wanted, opening)


def _opening(tokenizer: Any, context: str, tokens: tuple[int, ...], lookup: int) -> int:
    """How many tokens a context has where they stay what they are before a prompt, else 0."""
    if not context:
        return 0
    alone = tuple(tokenizer(context.rstrip())["input_ids"])
    return len(alone) if tokens[: len(alone)] == alone and len(alone) <= lookup else 0


@dataclass(frozen=True, slots=True)
class Aligned:
    """Rows without their openings, padded so that every lookup stands in one column.

    Prefixes are padded on the left, what follows on the right; `positions` undoes the padding.

    tokens      (rows, columns)  int64
    present     (rows, columns)  bool: not padding
    positions   (rows, columns)  int64: position of each token in its own text
    split       the column of the lookup: columns before it are the prefix, the others the suffix
    openings    by row: the tokens that stand before the first column
    """

    tokens: Tensor
    present: Tensor
    positions: Tensor
    split: int
    openings: tuple[tuple[int, ...], ...]


def align(
    rows: Sequence[Row],
    pad: int = 0,
    device: torch.device | None = None,
    *,
    prefix: int = 0,
    suffix: int = 0,
) -> Aligned:
    """Stack rows of different lengths with their lookups in one column.

    prefix, suffix   columns before the lookups and from them on, at least
    """
    split = max(prefix, *(row.lookup - row.opening for row in rows))
    width = split + max(suffix, *(len(row.tokens) - row.lookup for row in rows))
    tokens = torch.full((len(rows), width), pad, dtype=torch.long)
    present = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        own = row.tokens[row.opening :]
        start = split - (row.lookup - row.opening)
        tokens[i, start : start + len(own)] = torch.tensor(own)
        present[i, start : start + len(own)] = True
    before = torch.tensor([[row.opening] for row in rows])
    positions = (before + present.long().cumsum(1) - 1).clamp(min=0)
    openings = tuple(row.tokens[: row.opening] for row in rows)
    return Aligned(tokens.to(device), present.to(device), positions.to(device), split, openings)
