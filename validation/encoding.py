"""How a prompt and its continuation become tokens when a model is scored: as the editor reads them.

The prompt is tokenised by itself, with the special tokens that the tokenizer adds by default, and without
blanks at its end. Its continuation has the tokens that it has behind the prompt (`models/encoding.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from corrigenda.errors import ConfigError
from corrigenda.models.encoding import Tokens, continuation_tokens, prompt_tokens, text_of

# What stands before a continuation of which no prompt is known: a word.
_WORD = "x"


def has_chat(tokenizer: Any) -> bool:
    """Whether the model is asked in turns: its tokenizer has a chat template."""
    return getattr(tokenizer, "chat_template", None) is not None


def encode_chat(tokenizer: Any, asked: str, system: str | None) -> Tokens:
    """Token ids of a chat in which the user says `asked` and the assistant's turn has begun.

    Raises ConfigError when the model's template takes no system prompt.
    """
    turns = [{"role": "user", "content": asked}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    try:
        text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    except (TemplateError, ValueError) as fault:
        raise ConfigError(
            "the model's chat template refuses this chat",
            remedy="Remove `system_prompt` where the model knows no system role, or mend the template",
            cause=str(fault)[:200],
        ) from fault
    # The template writes the special tokens itself.
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[Tokens]:
    """Token ids of prompts, special tokens included; a closing end-of-text token is taken off again."""
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    # Before a whole sentence stands nothing, but something must predict its first token.
    return [tokens or (start,) for tokens in prompt_tokens(tokenizer, prompts)]


def encode_replies(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    """Token ids of what may stand at the beginning of the assistant's turn."""
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [tuple(row) for row in rows]


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
