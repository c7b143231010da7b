"""What people should know of a model's night, though none of it is an error: sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Share of the corrections that get too little from which on it is worth a word; a few always do.
MANY = 0.15


def remarks_on(outcome: Mapping[str, Any]) -> Iterator[str]:
    """About what `order.maintain_model` or `order.preview` returned."""
    taken_in = outcome.get("taken_in") or {}
    yield from map(_contradiction, taken_in.get("contradictions", ()))
    if unknown := taken_in.get("unknown_retracts"):
        yield f"retracted before it was ever asserted: {', '.join(unknown)}"
    if by := outcome.get("by"):
        yield f"another run is at work on it: {by}"
    if outcome["status"] == "held":
        yield f"held at release {outcome['release']}: {outcome['held']}"
    if revived := taken_in.get("revived"):
        yield f"asserted again after it was retracted: {', '.join(revived)}"
    if others := taken_in.get("other_facts"):
        yield f"another fact under an id that was known, in place of the one before: {', '.join(others)}"
    yield from _crowded(outcome.get("edits") or {})
    yield from map(_regressed, outcome.get("regressions") or ())


def _contradiction(found: Mapping[str, Any]) -> str:
    ids = ", ".join(found["correction_ids"])
    asked = found["prompt"].replace("{}", found["subject"])
    return f"{ids} want different answers to {asked!r}: {found['winner']} holds, it is the latest"


def _crowded(edits: Mapping[str, int]) -> Iterator[str]:
    """Where the layers have not room for all corrections."""
    facts = edits.get("computed", 0) + edits.get("cached", 0)
    if edits.get("short", 0) > MANY * facts:
        yield (
            f"{edits['short']} of {facts} corrections got less of the edit than they need: the layers have "
            "not room for more. Retract some, or raise `editing.most_change` and the gates on perplexity and "
            "drift"
        )


def _regressed(worse: Mapping[str, Any]) -> str:
    """A correction that used to pass."""
    return (
        f"{worse['correction_id']} passed in release {worse['last_passed']} and fails now: "
        f"{worse['prompt']!r} -> {worse['says']!r}; see `corrigenda results regressions`"
    )
