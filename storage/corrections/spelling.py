"""Spells texts as readers type them: canonical form NFC, no invisible signs, plain blanks.

A model's key of an oddly spelt subject is as far from the key of the typed one as another subject's: an edit
under the odd spelling would never reach a reader. Zero-width joiners stay inside a text, where Persian, Indic
scripts and emoji mean something by them. Knows nothing of corrections.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Byte order mark, zero-width space, word joiner, soft hyphen, direction marks.
INVISIBLE = "\ufeff\u200b\u2060\u00ad\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
NO_BREAK = "\u00a0\u2007\u202f"
JOINERS = "\u200c\u200d"
_INVISIBLE, _NO_BREAK = re.compile(f"[{INVISIBLE}]"), re.compile(f"[{NO_BREAK}]")
_EDGES = re.compile(rf"^[\s{JOINERS}]+|[\s{JOINERS}]+$")


def spelt(text: str) -> str:
    """The text as a reader would type it, trimmed."""
    plain = _NO_BREAK.sub(" ", _INVISIBLE.sub("", text))
    return _EDGES.sub("", unicodedata.normalize("NFC", plain))


def spelt_column(texts: pa.Array) -> pa.Array:
    """`spelt` for every text of a string column; nulls stay."""
    distinct = texts.dictionary_encode()
    spellings = [None if text is None else spelt(text) for text in distinct.dictionary.to_pylist()]
    return pa.array(spellings, pa.string()).take(distinct.indices)


def respelt(before: pa.Array, after: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which texts changed by more than blanks at their ends."""
    trimmed = pc.utf8_trim_whitespace(before)
    changed = pc.fill_null(pc.not_equal(trimmed, after), False)
    return np.asarray(changed.to_numpy(zero_copy_only=False), bool)
