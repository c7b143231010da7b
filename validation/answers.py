"""What counts as an answer: where a greedy continuation ends, and whether it says what was wanted.

Open question answering compares normalised words (SQuAD's rule, Rajpurkar et al. 2016); here it is made to
hold in other scripts too. Knows texts; nothing of tokens, models or probes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Form = Literal["plain", "paraphrase", "question", "chat"]

_ARTICLES = frozenset(("a", "an", "the"))
# Scripts that put no blanks between words: each sign stands for itself.
_UNSPACED = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
_DROPPED = re.compile(r"(?<=\d),(?=\d)|['\u2018\u2019\u02bc]s\b|['\u2018\u2019\u02bc]|(?<=\b\w)\.(?=\w\b)")
_SENTENCE = re.compile(r"[.!?](?=\s)|[\u3002\uff01\uff1f]")
# What stands before a full stop that ends no sentence: an initial, or one of these.
_SHORT = re.compile(r"(?:\b\w|\b(?:St|Mt|Dr|Mr|Mrs|Ms|Jr|Sr|No|Prof|Gen|Sen|Gov|Inc|Ltd|Co|vs))$", re.UNICODE)


@dataclass(frozen=True, slots=True)
class Match:
    """What an answer says, by whole words.

    begins     it begins with an accepted answer
    contains   an accepted answer stands in it
    exact      it is an accepted answer and nothing else
    old        the old answer stands in it; None where no old answer is known
    first      an accepted answer stands in it, and the old answer not before it
    """

    begins: bool
    contains: bool
    exact: bool
    old: bool | None
    first: bool

    def said(self, form: Form) -> bool:
        """Whether the fact was said. A plain prompt stops right before the answer, so the answer must come
        at once; elsewhere it may stand in a sentence."""
        return self.begins if form == "plain" else self.first


def words(text: str) -> tuple[str, ...]:
    """The words of a text as answers are compared: no case, accents, punctuation or articles.

    Compatibility forms are one (NFKD), a possessive is its owner, 1,000 is 1000, U.S. is US; a sign of a
    script without blanks is a word. Articles stay where nothing else is left.
    """
    folded = unicodedata.normalize("NFKD", text).casefold()
    bare = unicodedata.normalize("NFKC", "".join(c for c in folded if not "\u0300" <= c <= "\u036f"))
    spaced = _UNSPACED.sub(r" \1 ", _DROPPED.sub("", bare))
    # A combining mark of another script belongs to its letter; all that is no letter or digit parts words.
    kept = "".join(c if c.isalnum() or unicodedata.category(c).startswith("M") else " " for c in spaced)
    found = tuple(kept.split())
    return tuple(word for word in found if word not in _ARTICLES) or found


def match(answer: str, accepted: Iterable[str], old: str | None = None) -> Match:
    """Hold `answer` against the accepted ones: the target and its aliases."""
    said = words(answer)
    wanted = [found for found in map(words, accepted) if found]
    places = [place for one in wanted if (place := _place(said, one)) is not None]
    was = None if old is None else _place(said, words(old))
    first = min(places, default=None)
    return Match(
        begins=first == 0,
        contains=first is not None,
        exact=said in wanted,
        old=None if old is None else was is not None,
        first=first is not None and (was is None or first <= was),
    )


def _place(said: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Where `wanted` stands in `said`, word for word; None when it does not."""
    size = len(wanted)
    ends = range(len(said) - size + 1) if size else ()
    return next((start for start in ends if said[start : start + size] == wanted), None)


def natural_end(text: str, form: Form) -> int | None:
    """Where the answer in `text` is over, by what follows a word; None while it may go on.

    A plain text's answer ends with its sentence, that of a question with its line; a chat answer is over when
    the model ends its turn, which no text shows. Blank lines before the first word do not count.
    """
    if form == "chat":
        return None
    start = len(text) - len(text.lstrip())
    ends = [found.start() for found in re.finditer(r"\n", text) if found.start() >= start]
    if form != "question":
        ends += [m.start() for m in _SENTENCE.finditer(text) if not _is_short(text, m)]
    return min((end for end in ends if end > start), default=None)


def _is_short(text: str, end: re.Match[str]) -> bool:
    return end.group() == "." and _SHORT.search(text, 0, end.start()) is not None


def without_cut_word(text: str) -> str:
    """A text that was cut at a length without its last word, which may be half a word only."""
    return re.sub(r"\w+$", "", text)
