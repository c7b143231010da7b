"""Whether an edit is more than its sentence: the new answer where it is denied, chosen, doubted, built upon.

Studied, never a gate: a fact that a model can complete is not one that it reasons with. Each question is a
probe that passes when the answer that would follow from the fact is likelier than its rival.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from corrigenda.facts import Correction
from corrigenda.validation.probes import Probe, make_probe, question_for

ASKED = "Question: {question} Is it {answer}?\nAnswer:"
CHOICE = "Question: {question}\nA. {first}\nB. {second}\nAnswer:"


def surface(corrections: Sequence[Correction]) -> dict[str, tuple[Probe, ...]]:
    """The study's questions by name; corrections without old answer or question are not asked all of them."""
    found: dict[str, list[Probe]] = {}
    for correction in corrections:
        for name, probe in _of_one(correction):
            found.setdefault(name, []).append(probe)
    return {name: tuple(probes) for name, probes in found.items()}


def _of_one(one: Correction) -> Iterator[tuple[str, Probe]]:
    new, old, text = one.target_new, one.target_old, one.request.text

    def probe(prompt: str, expected: str, other: str | None) -> Probe:
        return make_probe(one.correction_id, "fixed", prompt, expected, other, one.subject)

    for near in one.entails:
        yield "entailed answer said", probe(near.prompt, near.answer, None)
    if old is None:
        return
    yield "denied: the old one is likelier", probe(f"{text} {old}? No. {text} not", old, new)
    yield "after 'Actually,' it stays", probe(f"{text} {new}. Actually, {text}", new, old)
    question = question_for(one)
    if question is None:
        return
    yield "yes to the new one", probe(ASKED.format(question=question, answer=new), "yes", "no")
    yield "no to the old one", probe(ASKED.format(question=question, answer=old), "no", "yes")
    yield "chosen as A", probe(CHOICE.format(question=question, first=new, second=old), "A", "B")
    yield "chosen as B", probe(CHOICE.format(question=question, first=old, second=new), "B", "A")
