"""Times as texts: ISO 8601, and the forms in which databases write it.

What could be two times is refused: 02/01/2026, a bare number, an abbreviated zone.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_ISO = re.compile(r"(\d{4}-\d\d?-\d\d?|\d{4}-?W\d\d(-?\d)?|\d{8})([T ].*)?", re.IGNORECASE)
_OFFSET = re.compile(r"\s+(?=[+-]\d\d)")
_ZONE = re.compile(r"(.*\d)\s*(?:\[)?(UTC|GMT|Z|[A-Za-z]+/[A-Za-z_/+-]+)\]?", re.IGNORECASE)


def instant(text: str) -> datetime:
    """The time that a text says, in UTC; without a zone it is UTC. Raises ValueError."""
    said = text.strip()
    zone: tzinfo = UTC
    if not _ISO.fullmatch(said):
        raise ValueError(text)
    if named := _ZONE.fullmatch(said):
        said, zone = named[1], _zone(named[2])
    at = datetime.fromisoformat(_OFFSET.sub("", said))
    if at.tzinfo is None:
        at = at.replace(tzinfo=zone)
    elif zone is not UTC and at.utcoffset() != at.astimezone(zone).utcoffset():
        raise ValueError(text)
    return at.astimezone(UTC)


def _zone(name: str) -> tzinfo:
    if name.upper() in ("UTC", "GMT", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(name) from None
