"""How a prompt and its continuation become tokens when a model is scored.

The prompt is tokenised by itself, with the special tokens that the tokenizer adds by default, and without
blanks at its end, as the editor reads it. The
continuation is tokenised as a blank plus the text, without special tokens, and appended, which is how
CounterFact's evaluator does it. Tokenizers that put a blank before every text themselves (SentencePiece's
dummy prefix) get the bare text, else the blank would stand there twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corrigenda.validation.reading import Tokens


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[Tokens]:
    """Token ids of prompts, special tokens included; a closing end-of-text token is taken off again."""
    if not prompts:
        return []
    end = tokenizer.eos_token_id
    rows = tokenizer([prompt.rstrip() for prompt in prompts], add_special_tokens=True)["input_ids"]
    return [tuple(row[:-1] if len(row) > 1 and row[-1] == end else row) for row in rows]


def encode_continuations(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    """Token ids of what should follow a prompt; `texts` come without leading blank."""
    if not texts:
        return []
    blank = "" if _adds_its_own_blank(tokenizer) else " "
    rows = tokenizer([blank + text for text in texts], add_special_tokens=False)["input_ids"]
    return [tuple(row) for row in rows]


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of a continuation, without the leading blank."""
    text: str = tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)
    return text.removeprefix(" ")


def _adds_its_own_blank(tokenizer: Any) -> bool:
    first = tokenizer("a", add_special_tokens=False)["input_ids"][:1]
    return bool(first) and tokenizer.convert_ids_to_tokens(first)[0][:1] in ("▁", "Ġ")
