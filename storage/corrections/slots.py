"""Finds the place of a subject in a prompt that has it written out.

Whole words only: the `Iran` of `Iranian` is no place for a slot. Where a script writes no blanks between
words, a change of script is a border, and a single place is taken as it is. Knows nothing of records.
"""

from __future__ import annotations

import re
import unicodedata

SLOT = "{}"
# Scripts without blanks between words, by the first word of their characters' names.
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class SlotError(Exception):
    """Why there is no place for a slot: a reason code of `checks.REMEDIES`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def slotted(prompt: str, subject: str) -> str:
    """The prompt with `{}` in the place of its subject: the first place as a whole word.

    A subject that occurs twice keeps its second place as plain text: the first is the one that is asked
    about. A prompt that has `{}` already is returned as it is, unless its subject stands written out beside
    it: then nobody knows which of the two is meant.

    Raises SlotError: subject_not_in_prompt, subject_inside_word, literal_braces.
    """
    if SLOT in prompt:
        if subject and _whole(prompt, subject):
            raise SlotError("literal_braces")
        return prompt
    places = _whole(prompt, subject) if subject else []
    if not places:
        inside = bool(subject) and re.search(re.escape(subject), prompt, re.IGNORECASE)
        raise SlotError("subject_inside_word" if inside else "subject_not_in_prompt")
    start, end = places[0]
    return f"{prompt[:start]}{SLOT}{prompt[end:]}"


def _whole(prompt: str, subject: str) -> list[tuple[int, int]]:
    """Where the subject stands as a whole word: spelt alike, or else in other case."""
    for flags in (re.NOFLAG, re.IGNORECASE):
        places = [found.span() for found in re.finditer(re.escape(subject), prompt, flags)]
        clean = [place for place in places if _is_whole(prompt, *place)]
        # 北京的 has no border that can be seen: one place is the place, of several none is known to be it.
        if not clean and len(places) == 1 and _is_whole(prompt, *places[0], loosely=True):
            clean = places
        if clean:
            return clean
    return []


def _is_whole(prompt: str, start: int, end: int, *, loosely: bool = False) -> bool:
    before, after = prompt[start - 1 : start], prompt[end : end + 1]
    borders = [(before, prompt[start]), (prompt[end - 1], after)]
    if _hangul(prompt[end - 1]) and _hangul(after):  # particles follow a Korean noun without a blank
        borders.pop()
    decimal = re.compile(r"\d[.,]\d")
    cut = decimal.match(prompt[end - 1 : end + 2]) or decimal.match(prompt[max(start - 2, 0) : start + 1])
    return not cut and all(_border(left, right, loosely) for left, right in borders)


def _border(left: str, right: str, loosely: bool) -> bool:
    """Whether a word may end between two characters, either of which may be missing."""
    if not left or not right or not (_letter(left) and _letter(right)):
        return not (right and unicodedata.category(right).startswith("M"))
    scripts = {_script(left), _script(right)}
    if not scripts & set(_UNSPACED):
        return False
    return loosely or len(scripts) == 2


def _letter(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")


def _script(character: str) -> str:
    return unicodedata.name(character, "?").split()[0].removesuffix("-UNIFIED")


def _hangul(character: str) -> bool:
    return bool(character) and _script(character) == "HANGUL"
