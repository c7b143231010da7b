"""Reads JSON: one list, one object, or any number of objects one after the other, a line each or not.

A line that is no JSON is a reject and the others go on; a name that an object has twice is a reject, too,
because readers of JSON disagree on which of the two values holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from corrigenda.storage.corrections.fields import folded
from corrigenda.storage.corrections.records import Record, Records, Row, refused

_BLANKS = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class _Broken:
    """What stands in the place of an object that is none: a reason code, what was there, why."""

    reason: str
    value: object
    why: str = ""


def read_json(text: str) -> Records:
    """Records of a JSON or JSON Lines text. Raises ValueError when it is neither."""
    if not text.strip():
        return Records((), (), notes=("the file is empty",))
    try:
        found = _DECODER.decode(text)
    except ValueError as fault:
        found = _documents(text)
        if found is None and text.lstrip().startswith("["):
            raise ValueError(str(fault).splitlines()[0]) from None
        return _parted(_lines(text) if found is None else found)
    return _parted(found if isinstance(found, list) else [found])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Broken:
    record = dict(pairs)
    names = [name for name, _ in pairs]
    twice = [name for name in record if names.count(name) > 1] if len(record) < len(names) else []
    return _Broken("name_twice", ", ".join(twice)) if twice else record


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _documents(text: str) -> list[Any] | None:
    """Objects one after the other, over as many lines as each takes; None where one is broken."""
    found, place = [], _after_blanks(text, 0)
    while place < len(text):
        try:
            one, end = _DECODER.raw_decode(text, place)
        except ValueError:
            return None
        found.append(one)
        place = _after_blanks(text, end)
    return found


def _after_blanks(text: str, place: int) -> int:
    found = _BLANKS.match(text, place)
    return found.end() if found else place


def _lines(text: str) -> list[Any]:
    """A record a line. Raises ValueError when no line is one."""
    # Not splitlines(): JSON texts may hold U+2028, which is a line end there only.
    found = [_line(line) for line in text.split("\n") if line.strip()]
    if not any(isinstance(one, dict) for one in found):
        raise ValueError(f"line 1: {found[0].why}")
    return found


def _line(line: str) -> Any:
    try:
        return _DECODER.decode(line)
    except ValueError as fault:
        return _Broken("broken_json", line.strip(), f": {str(fault).splitlines()[0]}")


def _parted(found: Iterable[Any]) -> Records:
    """Objects as records with folded names; all else is refused under its number."""
    records: list[Record] = []
    numbers: list[int] = []
    rejects: list[Row] = []
    for number, one in enumerate(found):
        broken = _broken(one)
        if broken:
            rejects.append(refused(number, broken.reason, "", broken.value, more=broken.why))
        else:
            records.append({folded(name): value for name, value in one.items()})
            numbers.append(number)
    return Records(tuple(records), tuple(numbers), tuple(rejects))


def _broken(one: Any) -> _Broken | None:
    """Why this is no record; an object within it that has a name twice spoils it, too."""
    if not isinstance(one, dict):
        return one if isinstance(one, _Broken) else _Broken("no_object", one)
    names = [folded(name) for name in one]
    if twice := [name for name in names if names.count(name) > 1]:
        return _Broken("name_twice", ", ".join(dict.fromkeys(twice)))
    return next((inner for value in one.values() if (inner := _within(value))), None)


def _within(value: Any) -> _Broken | None:
    if isinstance(value, _Broken):
        return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for one in inner if (found := _within(one))), None)
