"""The one room for text and tokens: how prompts and what follows them are tokenised, and how rows align.

Editor, localization and scorer all read here: what is practised is what is asked. Knows tokenizers; nothing
of layers or losses.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corrigenda.errors import EditError


@dataclass(frozen=True, slots=True)
class TokenRow:
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


Tokens = tuple[int, ...]

# Scripts that are written without blanks between words, with their punctuation: first and last character.
_BLANKLESS = (
    ("\u0e00", "\u0eff"),  # Thai, Lao
    ("\u0f00", "\u0fff"),  # Tibetan
    ("\u1000", "\u109f"),  # Myanmar
    ("\u1780", "\u17ff"),  # Khmer
    ("\u3000", "\u30ff"),  # ideographic punctuation, Hiragana, Katakana
    ("\u3400", "\u9fff"),  # ideographs
    ("\uf900", "\ufaff"),
    ("\uff00", "\uff9f"),  # full-width forms
    ("\U00020000", "\U0003ffff"),
)
_OPENING = ("Ps", "Pi")  # Unicode's categories of opening brackets and quotes
_EITHER = "\"'"  # quotes that open behind a blank and close behind a word
_CLOSING = ",.;:!?)]}\u2019\u201d\u00bb"
# Behind each of these a text is tokenised where it melts into its own prompt.
_NEUTRAL = ("x", "\uff1a", "\n")


def joint(prompt: str, text: str) -> str:
    """What stands between a prompt and what follows it: a blank, or nothing.

    Nothing behind nothing, behind an opening quote or bracket, behind scripts without blanks, and before
    punctuation that closes.
    """
    before = prompt.rstrip()
    if not before or text[:1].isspace() or text[:1] in _CLOSING:
        return ""
    last = before[-1]
    if unicodedata.category(last) in _OPENING or any(first <= last <= end for first, end in _BLANKLESS):
        return ""
    return "" if last in _EITHER and (before[-2:-1].isspace() or len(before) == 1) else " "


def prompt_tokens(tokenizer: Any, prompts: Sequence[str]) -> list[Tokens]:
    """Tokens of prompts without blanks at their ends: with the special tokens that the tokenizer puts before
    a text, and without those that it puts behind, as if nothing followed."""
    if not prompts:
        return []
    asked = [prompt.rstrip() for prompt in prompts]
    read = tokenizer(asked, return_special_tokens_mask=True)
    pairs = zip(read["input_ids"], read["special_tokens_mask"], strict=True)
    return [tuple(ids[: _own(mask)]) for ids, mask in pairs]


def continuation_tokens(tokenizer: Any, prompts: Sequence[str], texts: Sequence[str]) -> list[Tokens]:
    """Tokens of each text as it follows its prompt: the end of the tokens of both together.

    Where a text melts into its prompt, so that both together do not begin with the prompt's tokens, those
    that the text has behind another word.
    """
    if not texts:
        return []
    pairs = [
        (prompt.rstrip(), joint(prompt, text) + text) for prompt, text in zip(prompts, texts, strict=True)
    ]
    before = prompt_tokens(tokenizer, [prompt for prompt, _ in pairs])
    whole = prompt_tokens(tokenizer, [prompt + text for prompt, text in pairs])
    return [
        _tail(a, b) or _by_itself(tokenizer, text)
        for a, b, (_, text) in zip(before, whole, pairs, strict=True)
    ]


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of a continuation, without a leading blank."""
    text: str = tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
    return text.removeprefix(" ")


def _own(mask: Sequence[int]) -> int:
    """How many tokens there are without the special ones at the end."""
    count = len(mask)
    while count and mask[count - 1] and not all(mask[:count]):
        count -= 1
    return count


def _tail(before: Tokens, whole: Tokens) -> Tokens:
    return whole[len(before) :] if whole[: len(before)] == before else ()


def _by_itself(tokenizer: Any, text: str) -> Tokens:
    if not text.strip():
        return ()
    for neutral in _NEUTRAL:
        before, whole = prompt_tokens(tokenizer, [neutral, neutral + text])
        if tail := _tail(before, whole):
            return tail
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode(
    tokenizer: Any, prompt: str, subject: str, target: str | None = None, context: str = ""
) -> TokenRow:
    """Tokens of `context + prompt`, with the subject in the place of `{}`, and the target's.

    Raises EditError when no token ends the subject (an empty subject, for instance).
    """
    before, after = prompt.split("{}", 1)
    asked = before + subject + after
    last = len(context) + len(before) + len(subject.rstrip()) - 1
    read = tokenizer((context + asked).rstrip(), return_offsets_mapping=True, return_special_tokens_mask=True)
    # A character may be several tokens, which then have the same span: the last one has seen all of it.
    ends = [i for i, (start, end) in enumerate(read["offset_mapping"]) if start <= last < end]
    if not ends or not subject.strip():
        raise EditError(
            "the subject has no token of its own",
            remedy="Check that the subject is not empty and stands in the prompt's `{}`",
            subject=subject,
            prompt=prompt,
        )
    lookup = ends[-1]
    tokens = tuple(read["input_ids"][: _own(read["special_tokens_mask"])])
    opening = _opening(tokenizer, context, tokens, lookup)
    if target is None:
        return TokenRow(tokens, lookup, opening=opening)
    (wanted,) = continuation_tokens(tokenizer, [asked], [target])
    if not wanted:
        raise EditError("the target has no token", remedy="Give a target that is not empty", target=target)
    return TokenRow((*tokens, *wanted[:-1]), lookup, wanted, opening)


def _opening(tokenizer: Any, context: str, tokens: tuple[int, ...], lookup: int) -> int:
    """How many tokens a context has where they stay what they are before a prompt, else 0."""
    if not context:
        return 0
    (alone,) = prompt_tokens(tokenizer, [context])
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
    rows: Sequence[TokenRow],
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
