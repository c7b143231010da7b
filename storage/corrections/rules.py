"""The rules by which corrections of one model succeed, contradict and take back one another.

The state of every entry is a function of two sets and of nothing else: the entries (versions of
corrections), and the marks (what the pipeline sent out, with the evidence). So the order in which
corrections arrive, and how they are spread over nights, never matters; only `asserted_at` does.

1. Of the versions of one correction_id the latest counts; the earlier ones are superseded. A retract is a
   version too. "Later" is by `asserted_at`, then a retract after an upsert, then by content digest.
2. Where the latest version is a retract, the upsert that it took back is retracted, as though it had never
   been said; the retract itself is kept beside it in the same state.
3. Of the upserts that count and speak of one slot (normalised subject, prompt), the latest holds it; the
   others are superseded, until that one is retracted or moves to another slot.
4. A holder that has a mark is quarantined or rejected, and still holds its slot: what it replaced is known
   to be out of date. All other holders are active.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from corrigenda.facts import Correction

State = Literal["active", "superseded", "retracted", "quarantined", "rejected"]
STATES: tuple[State, ...] = ("active", "superseded", "retracted", "quarantined", "rejected")

# Marks that only tell a terminal which way to write; two spellings that differ in them are one subject.
_DIRECTION = dict.fromkeys(
    map(ord, "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
)


@dataclass(frozen=True, slots=True)
class Mark:
    """Why the pipeline keeps one version of a correction out. `evidence` is JSON-able."""

    state: Literal["quarantined", "rejected"]
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Told:
    """One version of one correction, before its state is known.

    digest   of its content; names the version
    file     digest of the queue file that brought it
    """

    correction: Correction
    digest: str
    file: str

    @property
    def age(self) -> tuple[datetime, bool, str]:
        """Sorts versions from early to late."""
        return self.correction.asserted_at, self.correction.action == "retract", self.digest


class Fate(NamedTuple):
    """A state, the digest of the entry that caused it, and a reason code.

    why   new_version, same_slot, retracted, or the mark's reason
    """

    state: State
    by: str | None = None
    why: str | None = None


def normalised(subject: str) -> str:
    """The subject as the ledger compares it: NFKC, no case, single blanks, no direction marks."""
    folded = unicodedata.normalize("NFKC", subject).translate(_DIRECTION).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def slot(correction: Correction) -> tuple[str, str]:
    """What a correction speaks of: two that share it cannot both hold."""
    return normalised(correction.subject), correction.prompt


def fates(told: Mapping[str, Told], marks: Mapping[str, Mark]) -> dict[str, Fate]:
    """The fate of every version, by digest: the rules at the head of this file, in their order."""
    fate: dict[str, Fate] = {}
    slots: dict[tuple[str, str], list[Told]] = defaultdict(list)
    for versions in by_id(told).values():
        counting = _settle_versions(versions, fate)
        if counting:
            slots[slot(counting.correction)].append(counting)
    for rivals in slots.values():
        _settle_slot(sorted(rivals, key=lambda rival: rival.age), marks, fate)
    return fate


def by_id(told: Mapping[str, Told]) -> dict[str, list[Told]]:
    """Versions from early to late under each correction_id, ids in order."""
    versions: dict[str, list[Told]] = defaultdict(list)
    for one in sorted(told.values(), key=lambda one: (one.correction.correction_id, one.age)):
        versions[one.correction.correction_id].append(one)
    return versions


def _settle_versions(versions: list[Told], fate: dict[str, Fate]) -> Told | None:
    """Rules 1 and 2, for the versions of one id. Returns the upsert that counts, if any."""
    *earlier, latest = versions
    for version, after in zip(earlier, versions[1:], strict=True):
        taken_back = after.correction.action == "retract"
        fate[version.digest] = Fate("superseded", after.digest, "retracted" if taken_back else "new_version")
    if latest.correction.action == "upsert":
        return latest
    fate[latest.digest] = Fate("retracted")
    for version in reversed(earlier):
        if version.correction.action == "upsert":
            fate[version.digest] = Fate("retracted", latest.digest, "retracted")
            break
    return None


def _settle_slot(rivals: list[Told], marks: Mapping[str, Mark], fate: dict[str, Fate]) -> None:
    """Rules 3 and 4, for the upserts that count and share a slot, from early to late."""
    *others, holder = rivals
    mark = marks.get(holder.digest)
    fate[holder.digest] = Fate(mark.state, why=mark.reason) if mark else Fate("active")
    for other in others:
        fate[other.digest] = Fate("superseded", holder.digest, "same_slot")
