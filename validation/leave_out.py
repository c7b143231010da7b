"""Who of the suspects is to blame: decided by solving again without them, not by what rows suggest.

All suspects are left out at once, so that two that do the same harm cannot shield one another; then each,
the mildest first, is let back in alone, and stays in unless it brings the harm back. Knows figures; how an
edit without some corrections is made and measured is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from corrigenda.validation.gates import Culprit

MOST_TRIED = 24  # suspects; each costs one solve and the scoring of what broke
FAR_ABOVE = 10  # times the mean harm of a correction: who does so much goes, whatever the gates would bear
_NOISE = 1.01  # a figure that is not to be had is held to what it is without all suspects, and rounding


@dataclass(frozen=True, slots=True)
class Damage:
    """What an edit that leaves some corrections out does.

    figures   gate -> figure, of the damage gates that the candidate did not pass
    broken    names of the probes that broke under the candidate and are still broken
    """

    figures: Mapping[str, float]
    broken: frozenset[str]


@dataclass(frozen=True, slots=True)
class Conviction:
    """A correction that has to go, and what happens when it alone of the suspects is let back in.

    without, with_it   figures of the damage gates
    breaks             names of the probes that break again; empty where drift is the matter
    """

    culprit: Culprit
    without: Mapping[str, float]
    with_it: Mapping[str, float]
    breaks: tuple[str, ...]

    @property
    def reason(self) -> str:
        """One line for the ledger."""
        if self.breaks:
            return f"{self.culprit.reason}; left out, {len(self.breaks)} came right again"
        gate = self.culprit.gate
        rise = f"{self.without[gate]:.3g} without it, {self.with_it[gate]:.3g} with it"
        return f"{gate}: {rise}; e.g. {self.culprit.prompt!r} -> {self.culprit.says!r}"

    def evidence(self, told: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """JSON-able; `told` says of a probe what is worth keeping."""
        return asdict(self.culprit) | {
            "left_out": dict(self.without),
            "let_in": dict(self.with_it),
            "came_back": [dict(told[name]) for name in self.breaks],
        }


def suspects(culprits: Iterable[Culprit]) -> tuple[Culprit, ...]:
    """Whom to try, worst first: twice as many of each gate's list as its rows say are enough."""
    found: dict[str, Culprit] = {}
    by_gate: dict[str, list[Culprit]] = {}
    for culprit in culprits:
        by_gate.setdefault(culprit.gate, []).append(culprit)
    for listed in by_gate.values():
        for culprit in listed[: 2 * sum(one.enough for one in listed)]:
            found.setdefault(culprit.correction_id, culprit)
    return tuple(found.values())[:MOST_TRIED]


def convict(
    tried: Sequence[Culprit],
    measure: Callable[[frozenset[str]], Damage],
    thresholds: Mapping[str, float],
    corrections: int,
) -> tuple[Conviction, ...]:
    """Those of `tried` without whom the damage gates hold, or come as near to it as they can.

    tried         worst first
    measure       the damage when these correction ids are left out
    thresholds    gate -> the most that it allows, of the gates that are short
    corrections   how many the candidate holds

    Each is let in where all figures stay within the thresholds, or within what they are without all of
    `tried`. Who alone breaks FAR_ABOVE times as many probes as the mean correction is not let in even then:
    that there is room for the harm is no reason to do it.
    """
    out = frozenset(culprit.correction_id for culprit in tried)
    everything = len(measure(frozenset()).broken)
    gross = max(2.0, FAR_ABOVE * everything / max(1, corrections))
    now, found = measure(out), []
    for culprit in reversed(tried):
        then = measure(out - {culprit.correction_id})
        breaks = sorted(then.broken - now.broken)
        bearable = all(
            then.figures[gate] <= max(most, now.figures[gate] * _NOISE) for gate, most in thresholds.items()
        )
        if bearable and len(breaks) < gross:
            out, now = out - {culprit.correction_id}, then
        else:
            found.append(Conviction(culprit, now.figures, then.figures, tuple(breaks)))
    return tuple(reversed(found))
