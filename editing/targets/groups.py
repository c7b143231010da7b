"""Requests that are read in the same words up to the subject's end share one key, and so one residual.

"Ada Lovelace was born in" and "Ada Lovelace works as" put the same input before the edited projection, and
a linear map cannot send it to two outputs. Such requests are one group: one residual is optimised over the
prompts of all of them, instead of two that would average each other away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from corrigenda.facts import EditRequest, digest_of


@dataclass(frozen=True, slots=True)
class Group:
    """Requests with one lookup, in the order of their digests; most groups hold one."""

    requests: tuple[EditRequest, ...]

    @property
    def digest(self) -> str:
        """Names the group in the edit cache; a group of one has its request's own digest."""
        if len(self.requests) == 1:
            return self.requests[0].digest
        return digest_of(["group", *(request.digest for request in self.requests)])


def grouped(requests: Iterable[EditRequest]) -> list[Group]:
    """All requests in groups, repeats dropped, in the order of the groups' digests."""
    found: dict[str, dict[str, EditRequest]] = defaultdict(dict)
    for request in requests:
        found[request.prompt.split("{}", 1)[0] + request.subject][request.digest] = request
    groups = [Group(tuple(members[digest] for digest in sorted(members))) for members in found.values()]
    return sorted(groups, key=lambda group: group.digest)
