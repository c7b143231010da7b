"""What corrections that are handed in would do to those that are known: repeats, retracts undone,
contradictions.

Rows that say no time of their own have that of their file. Such a row says again what it said yesterday:
where nothing else changed it is a repeat, and it must not undo a retract that somebody made in between. A
row with a time of its own is taken at its word, and what it does is said. Knows nothing of queues or
stores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from corrigenda.facts import Correction
from corrigenda.storage.corrections.ledger import contradictions
from corrigenda.storage.corrections.records import Row, refused
from corrigenda.storage.corrections.rules import slot
from corrigenda.storage.corrections.schemas import correction_of

_SHOWN = 3  # ids that a sentence names
_AHEAD = timedelta(minutes=5)  # clocks differ by less
# Endings of a target that a full stop belongs to.
SHORT = 4


@dataclass(frozen=True, slots=True)
class Admitted:
    """Rows that go on, and what is to be said of all.

    good       CORRECTIONS
    repeats    how many rows say nothing new
    rejects    rows that would undo a retract without saying so
    warnings   sentences
    """

    good: pa.Table
    repeats: int
    rejects: tuple[Row, ...]
    warnings: tuple[str, ...]


class Known:
    """The corrections of one model, in its ledger or waiting for it: the latest version of each id, and who
    holds which slot.
    """

    def __init__(self, told: Iterable[Correction]) -> None:
        self.latest: dict[str, Correction] = {}
        for one in sorted(told, key=_age):
            self.latest[one.correction_id] = one
        self.holders: dict[tuple[str, str], Correction] = {}
        for one in sorted(self.latest.values(), key=_age):
            if one.action == "upsert":
                self.holders[slot(one)] = one


def admit(
    good: pa.Table,
    numbers: Sequence[int],
    known: Mapping[str, Sequence[Known]],
    *,
    undated: datetime | None,
    now: datetime,
) -> Admitted:
    """Part rows that say something new from those that do not.

    good      checked rows, CORRECTIONS
    numbers   the row number of each
    known     per `model` value of the rows, what each of the models that it means knows
    undated   the time that rows without one were given; None when each row has its own
    """
    kept, rejects, repeats, said = [], list[Row](), 0, defaultdict[str, list[str]](list)
    for number, row in enumerate(good.to_pylist()):
        one, models = correction_of(row), known.get(row["model"], ())
        is_undated = one.asserted_at == undated
        if is_undated and models and all(_repeats(one, model) for model in models):
            repeats += 1
            continue
        back = [model for model in models if _brings_back(one, model)]
        if is_undated and back:
            rejects.append(_held(numbers[number], one, back[0].latest[one.correction_id]))
            continue
        kept.append(number)
        for what in _effects(one, models, back, now):
            said[what].append(one.correction_id)
    taken = good.take(pa.array(kept, pa.int64()))
    warnings = [_sentence(what, ids) for what, ids in said.items()]
    return Admitted(taken, repeats, tuple(rejects), (*warnings, *_contradictory(taken)))


def _repeats(one: Correction, model: Known) -> bool:
    last = model.latest.get(one.correction_id)
    return last is not None and one.action == last.action == "upsert" and last.asserts == one.asserts


def _brings_back(one: Correction, model: Known) -> bool:
    last = model.latest.get(one.correction_id)
    return last is not None and last.action == "retract" and one.action == "upsert" and _age(one) > _age(last)


def _held(number: int, one: Correction, retract: Correction) -> Row:
    at = f" (the retract is of {retract.asserted_at:%Y-%m-%d %H:%M})"
    record = {"correction_id": one.correction_id, "model": one.model}
    return refused(number, "retracted", "asserted_at", one.asserted_at.isoformat(), record, more=at)


def _effects(one: Correction, models: Sequence[Known], back: Sequence[Known], now: datetime) -> Iterator[str]:
    """What people should know of one row before it is enqueued."""
    if one.asserted_at > now + _AHEAD:
        yield "asserted in the future, so that nothing said before then can replace it"
    if one.action != "upsert":
        return
    if back:
        yield "asserted again after it was retracted"
    for model in models:
        yield from _against(one, model)
    if one.prompt.rstrip().endswith(("?", "？", "؟", ";")):
        yield "a question: a model continues its prompt, so let the answer follow (The mayor of {} is)"
    if _full_stop(one.target_new):
        yield "a full stop ends the answer, and a model would learn to say it"


def _against(one: Correction, model: Known) -> Iterator[str]:
    last, holder = model.latest.get(one.correction_id), model.holders.get(slot(one))
    if last and last.action == "upsert" and slot(last) != slot(one):
        later = _age(one) > _age(last)
        yield f"{'replaces' if later else 'is older than'} another fact under its id: {last.request.text!r}"
    elif last and last.action == "upsert" and _age(one) < _age(last):
        yield "older than what is known of it, so it will not hold"
    if holder and holder.correction_id != one.correction_id and holder.target_new != one.target_new:
        holds = one if _age(one) > _age(holder) else holder
        other = f"{holder.correction_id} ({holder.target_new!r})"
        yield f"contradicts {other}; {holds.correction_id} holds, it is later"


def _contradictory(taken: pa.Table) -> Iterator[str]:
    """Contradictions within what was handed in."""
    for found in contradictions([correction_of(row) for row in taken.to_pylist()]):
        asked = found.prompt.replace("{}", found.subject)
        yield f"{', '.join(found.correction_ids)} want different answers to {asked!r}: {found.winner} holds"


def _full_stop(target: str) -> bool:
    """A full stop that ends a sentence; that of `T.C.` or `Inc.` belongs to its word."""
    words = target.split()
    last = words[-1] if words else ""
    return last.endswith(("。", ".")) and (
        last.endswith("。") or ("." not in last[:-1] and len(last) > SHORT + 1)
    )


def _sentence(what: str, ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:_SHOWN]) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")
    return f"{shown}: {what}"


def _age(one: Correction) -> tuple[datetime, bool]:
    return one.asserted_at, one.action == "retract"


def probes(good: pa.Table) -> dict[str, Any]:
    """How many probes rows bring: in all, and how many rows bring none of a kind."""
    columns = {name: good[name].to_pylist() for name in ("paraphrases", "neighborhood")}
    counts = {name: [len(entries or ()) for entries in column] for name, column in columns.items()}
    return {
        name: {"probes": sum(column), "without": sum(not count for count in column)}
        for name, column in counts.items()
    }
