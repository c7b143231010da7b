"""How a prompt and its continuation become tokens when a model is scored: as the editor reads them.

The prompt is tokenised by itself, with the special tokens that the tokenizer adds by default, and without
blanks at its end. Its continuation has the tokens that it has behind the prompt (`models/encoding.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corrigenda.models.encoding import continuation_tokens, prompt_tokens, text_of
from corrigenda.validation.reading import Tokens

# What stands before a continuation of which no prompt is known: a word.
_WORD = "x"


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[Tokens]:
    """Token ids of prompts, special tokens included; a closing end-of-text token is taken off again."""
    return prompt_tokens(tokenizer, prompts)


def encode_continuations(
    tokenizer: Any, texts: Sequence[str], prompts: Sequence[str] | None = None
) -> list[Tokens]:
    """Token ids of what should follow a prompt; `texts` come without leading blank.

    prompts   one for each text; None: behind a word
    """
    return continuation_tokens(tokenizer, [_WORD] * len(texts) if prompts is None else prompts, texts)


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of a continuation, without the leading blank."""
    return text_of(tokenizer, tokens)
