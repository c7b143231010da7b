"""Probes: the held-out prompts with which a release is tested, made from the corrections it holds.

A rewrite probe asks what was edited; a paraphrase probe asks the same in other words, a question probe as a
question behind which the answer stands, a chat probe as the user's turn in the model's own chat template. A
locality probe asks something near by whose answer must stand; a fixed probe is the user's own; a capability
probe is about neither. Knows no model and no store.

Held out: paraphrases and neighbours are not part of an `EditRequest`, so the editor cannot see them, and a
paraphrase or neighbour that is word for word some active edit prompt is dropped here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from corrigenda.errors import CorrectionsError
from corrigenda.facts import Correction, Neighbour, ProxyFact, digest_of
from corrigenda.validation.answers import Form
from corrigenda.validation.questions import question_of

Kind = Literal["rewrite", "paraphrase", "question", "chat", "locality", "fixed", "capability"]
RIVALLED = ("rewrite", "paraphrase")  # without an old answer, what the base says is the rival
ANSWERED = ("rewrite", "paraphrase", "question", "chat")  # greedy decoding goes on to a natural stop
FORMS: dict[str, Form] = {"paraphrase": "paraphrase", "question": "question", "chat": "chat"}
QUESTION = "Question: {}\nAnswer:"  # as open question answering is asked (lm-evaluation-harness, TriviaQA)
DRAWN_NEIGHBOURS = 5


@dataclass(frozen=True, slots=True)
class Probe:
    """One held-out question to a model.

    probe_id        digest of the content: the same probe in two releases has the same id
    correction_id   the correction it tests; empty for fixed probes
    prompt          as the model reads it; of a chat, what the user says
    expected        the right continuation, without leading blank
    other           the continuation it competes with: the old answer of a rewrite or paraphrase, the new
                    target of a locality probe; None where there is none yet (see base_scores.settle)
    aliases         answers that are as right as `expected`, where an answer is asked for
    system          of a chat: the system prompt; None for the template's own
    """

    probe_id: str
    correction_id: str
    kind: Kind
    prompt: str
    expected: str
    other: str | None = None
    subject: str = ""
    aliases: tuple[str, ...] = ()
    system: str | None = None

    @property
    def form(self) -> Form:
        """How it is asked."""
        return FORMS.get(self.kind, "plain")

    @property
    def question(self) -> str:
        """Names all that a model's scores of this probe depend on, besides the model."""
        answered = [self.form, *self.aliases] if self.kind in ANSWERED else None
        asked = [self.prompt, self.expected, self.other, self.kind in RIVALLED]
        return digest_of([*asked, answered, self.system])


def make_probe(
    correction_id: str,
    kind: Kind,
    prompt: str,
    expected: str,
    other: str | None,
    subject: str = "",
    *,
    aliases: tuple[str, ...] = (),
    system: str | None = None,
) -> Probe:
    """A probe under the name that its content gives it."""
    name = digest_of([correction_id, kind, prompt, expected, other])[:20]
    return Probe(name, correction_id, kind, prompt, expected, other, subject, aliases, system)


def probes_of(
    corrections: Iterable[Correction],
    *,
    pool: Sequence[ProxyFact] = (),
    fixed: Sequence[Probe] = (),
    drawn: int = DRAWN_NEIGHBOURS,
    chat: bool = False,
    system: str | None = None,
) -> tuple[Probe, ...]:
    """All probes of a release: of every active correction, whenever it came, and the user's own.

    pool    facts that lend neighbours to corrections which bring none
    fixed   the user's own probes, and those of capability
    drawn   how many neighbours such a correction is lent
    chat    whether the model has a chat template, in which each question is asked as well
    system  the system prompt under which it is served; None for the template's own
    """
    active = [correction for correction in corrections if correction.action == "upsert"]
    edited = {correction.request.text for correction in active}
    asked = edited | {text for correction in active for text in correction.paraphrases}
    lenders = _Lenders(active, pool, asked)
    found: dict[str, Probe] = {}
    for correction in active:
        near = correction.neighborhood or lenders.lend(correction, drawn)
        for probe in _probes_of_one(correction, near, edited, asked):
            found.setdefault(probe.probe_id, probe)
        for probe in _questions_of_one(correction, chat, system):
            found.setdefault(probe.probe_id, probe)
    return (*found.values(), *fixed)


def _probes_of_one(
    correction: Correction, near: Sequence[Neighbour], edited: set[str], asked: set[str]
) -> Iterator[Probe]:
    name, new, old = correction.correction_id, correction.target_new, correction.target_old
    also, subject = correction.aliases, correction.subject
    yield make_probe(name, "rewrite", correction.request.text, new, old, subject, aliases=also)
    for text in correction.paraphrases:
        if text not in edited:
            yield make_probe(name, "paraphrase", text, new, old, subject, aliases=also)
    for neighbour in near:
        if neighbour.prompt not in asked:
            rival = new if new != neighbour.answer else None
            yield make_probe(name, "locality", neighbour.prompt, neighbour.answer, rival, correction.subject)


def question_for(correction: Correction) -> str | None:
    """The question that a correction answers: its own, else one made from its prompt where a rule fits."""
    if correction.question:
        return correction.question
    asked = question_of(correction.prompt)
    return None if asked is None else asked.replace("{}", correction.subject)


def _questions_of_one(correction: Correction, chat: bool, system: str | None) -> Iterator[Probe]:
    asked = question_for(correction)
    if asked is None:
        return
    facts = (correction.target_new, correction.target_old, correction.subject)
    name, also = correction.correction_id, correction.aliases
    yield make_probe(name, "question", QUESTION.format(asked), *facts, aliases=also)
    if chat:
        yield make_probe(name, "chat", asked, *facts, aliases=also, system=system)


class _Lenders:
    """Neighbours for corrections that bring none: of the same relation first, then any.

    The relation is the prompt's template. Which ones a correction is lent depends on its id and on what
    there is to lend, not on the order of the corrections.
    """

    def __init__(self, active: Sequence[Correction], pool: Sequence[ProxyFact], asked: set[str]) -> None:
        self.by_relation: dict[str, list[Neighbour]] = defaultdict(list)
        for correction in active:
            self.by_relation[correction.prompt] += correction.neighborhood
        for fact in pool:
            self.by_relation[fact.prompt].append(Neighbour(fact.text, fact.target_true))
        for relation, lent in self.by_relation.items():
            free = {neighbour for neighbour in lent if neighbour.prompt not in asked}
            self.by_relation[relation] = sorted(free, key=lambda n: (n.prompt, n.answer))
        self.all = sorted(
            {n for lent in self.by_relation.values() for n in lent}, key=lambda n: (n.prompt, n.answer)
        )

    def lend(self, correction: Correction, count: int) -> tuple[Neighbour, ...]:
        start = int(digest_of(correction.correction_id)[:12], 16)
        chosen: dict[str, Neighbour] = {}
        for lent in (self.by_relation.get(correction.prompt, []), self.all):
            for step in range(len(lent)):
                if len(chosen) == count:
                    return tuple(chosen.values())
                neighbour = lent[(start + step) % len(lent)]
                if _is_apart(neighbour, correction):
                    chosen.setdefault(neighbour.prompt, neighbour)
        return tuple(chosen.values())


def _is_apart(neighbour: Neighbour, correction: Correction) -> bool:
    """A prompt about the corrected subject itself may well change; so may one with the same answer."""
    return correction.subject not in neighbour.prompt and neighbour.answer != correction.target_new


def read_fixed(path: Path, kind: Literal["fixed", "capability"] = "fixed") -> tuple[Probe, ...]:
    """The user's own probes of a model, from Parquet: `prompt`, `expected` and perhaps `other`.

    Such a probe passes when `expected` is likelier than `other`; without `other`, when the model says it.
    The prompt of a capability probe may be empty: then whole sentences are compared. Raises
    CorrectionsError when the file cannot be read as probes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as fault:
        raise CorrectionsError(
            "the probe file cannot be read", remedy=f"Write it as Parquet: {fault}", path=str(path)
        ) from None
    missing = sorted({"prompt", "expected"} - set(table.column_names))
    if missing:
        raise CorrectionsError(
            "the probe file lacks columns",
            remedy="Give every probe a `prompt` and an `expected` continuation",
            path=str(path),
            missing=missing,
        )
    return tuple(_fixed_probe(row, kind, number, path) for number, row in enumerate(table.to_pylist()))


def built_in_capability() -> tuple[Probe, ...]:
    """Items that small models can answer, worded for corrigenda: grammar, common knowledge, last words."""
    text = resources.files("corrigenda").joinpath("data", "capability.jsonl").read_text(encoding="utf-8")
    rows = map(json.loads, text.splitlines())
    return tuple(make_probe("", "capability", r["prompt"], r["expected"], r.get("other")) for r in rows)


def _fixed_probe(row: dict[str, Any], kind: Kind, number: int, path: Path) -> Probe:
    values = [row["prompt"], row["expected"], row.get("other")]
    needed = values[1:2] if kind == "capability" and values[2] else values[:2]
    if not all(isinstance(value, str) and value.strip() for value in needed):
        raise CorrectionsError(
            f"a {kind} probe is empty",
            remedy="Fill `prompt` and `expected` with text",
            path=str(path),
            row=number,
        )
    return make_probe("", kind, values[0] or "", *values[1:])
