"""Context prefixes: a few words of the model's own, put before each prompt so that edits generalise.

The same model has the same contexts for ever: they are part of every edit's cache key.
"""

from __future__ import annotations

from corrigenda.editing import versions
from corrigenda.facts import digest_of
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.sampling import sample_rows

# Openings are of different lengths, around the one that is asked for.
SPREAD = 0.5


def generate_contexts(model: LanguageModel, count: int, tokens: int, seed: int) -> tuple[str, ...]:
    """`count` openings of some `tokens` tokens, each ending in `. `, after one empty context.

    The empty context stands first: the prompt as a user types it. The openings are sampled from the model's
    own distribution, like text that it has seen; its likeliest words alone are all of one kind (docs/log).
    (Meng et al. 2022, MEMIT, sec. 4.3.)
    """
    if not count:
        return ("",)
    longest = round(tokens * (1 + SPREAD))
    shortest = max(1, round(tokens * (1 - SPREAD)))
    rows = sample_rows(model, count, longest, seed)
    lengths = [shortest + i * 7 % (longest - shortest + 1) for i in range(count)]
    return ("", *(_opening(model, row[:n].tolist()) for row, n in zip(rows, lengths, strict=True)))


def _opening(model: LanguageModel, tokens: list[int]) -> str:
    words = model.tokenizer.decode(tokens, skip_special_tokens=True).replace("{}", " ")
    return " ".join(words.split()).rstrip(". ") + ". "


def contexts_digest(contexts: tuple[str, ...]) -> str:
    return digest_of([versions.CONTEXTS, *contexts])
