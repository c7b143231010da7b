"""What records of other tools say besides the fact: other wordings, neighbours, and what follows from it.

Every form that such files have is read: one text or many, lists beside lists, objects in groups. Whatever
has no place in a correction is counted in `Left` under a name, so that it is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from corrigenda.storage.corrections.fields import PARAPHRASES
from corrigenda.storage.corrections.records import Record, Row
from corrigenda.storage.corrections.texts import RecordError, as_text

Left = Counter[str]
ANSWERS = ("answer", "ground_truth", "answers", "target", "target_true", "ground_truths", "New Answer")
PROMPTS = ("prompt", "question", "query", "New Question")
NO_ANSWER = "neighbours without an answer"
ALIASES = "further names of an answer"


def paraphrases(record: Record, left: Left) -> list[str | None]:
    """The same fact in other words, from whichever fields hold it."""
    own = record.get("paraphrases")
    if own is not None and not isinstance(own, str | list):
        raise RecordError("wrong_type", "paraphrases", own)
    found = [
        as_text("paraphrases", one)
        for one in ([own] * bool(own.strip()) if isinstance(own, str) else own or [])
    ]
    for name in PARAPHRASES:
        found += [text for one in _flattened(record.get(name)) if (text := _wording(name, one, left))]
    return found


def neighbours(record: Record, old: str | None, left: Left) -> list[Row]:
    """Prompts near the fact, each with the answer that must not change."""
    found = own_pairs(record, "neighborhood")
    # CounterFact's neighbours are other subjects of which the old answer is true.
    for prompt in _flattened(record.get("neighborhood_prompts")):
        found += _paired(prompt, old, left)
    for prompts, answers in (("locality_prompt", "locality_ground_truth"), ("loc", "loc_ans")):
        found += _parallel(record.get(prompts), record.get(answers), left)
    for name in ("locality", "locality_inputs"):
        found += _groups(record.get(name), left)
    return found


def entailed(record: Record, left: Left) -> list[Row]:
    """Prompts whose answers follow from the fact."""
    return [*own_pairs(record, "entails"), *_groups(record.get("portability"), left)]


def names_of(record: Record, name: str) -> list[str | None]:
    """An answer with its further names; {"str": …, "id": …} is its text."""
    value = record.get(name)
    return [
        as_text(name, one) for one in _flattened(value.get("str") if isinstance(value, Mapping) else value)
    ]


def _groups(value: object, left: Left) -> Iterator[Row]:
    """{group: [{prompt, answer}]}, {group: {prompt: […], answer: […]}}, [{prompt, answer}], or one alone."""
    if isinstance(value, list):
        for one in value:
            yield from _groups(one, left)
    elif isinstance(value, Mapping):
        prompts = next((value[name] for name in PROMPTS if name in value), None)
        if prompts is None:
            for inner in value.values():
                yield from _groups(inner, left)
        else:
            yield from _parallel(prompts, next((value[n] for n in ANSWERS if n in value), None), left)
    elif value is not None:
        left[NO_ANSWER] += 1


def _parallel(prompts: object, answers: object, left: Left) -> Iterator[Row]:
    """One prompt and its answer, or a list of each side by side."""
    if not isinstance(prompts, list):
        yield from _paired(prompts, answers, left)
        return
    beside = answers if isinstance(answers, list) else [answers] * (len(prompts) == 1)
    for number, prompt in enumerate(prompts):
        yield from _paired(prompt, beside[number] if number < len(beside) else None, left)


def _paired(prompt: object, answer: object, left: Left) -> list[Row]:
    """One neighbour; without an answer there is nothing to hold it to."""
    asked = as_text("locality", next(iter(_flattened(prompt)), None))
    names = list(_flattened(answer))
    said = as_text("locality", names[0]) if names else None
    if not asked and not said:
        return []
    if not (asked and said):
        left[NO_ANSWER] += 1
        return []
    left[ALIASES] += len(names) - 1
    return [{"prompt": asked, "answer": said}]


def _wording(name: str, value: object, left: Left) -> str | None:
    if isinstance(value, Mapping):
        value = next((value[key] for key in PROMPTS if key in value), None)
        left[f"{name} without a prompt"] += value is None
    return as_text(name, value)


def _flattened(value: object) -> Iterator[Any]:
    """The leaves of nested lists, without nothing and empty texts."""
    if isinstance(value, list):
        for one in value:
            yield from _flattened(one)
    elif value is not None and value != "":
        yield value


def own_pairs(record: Record, column: str) -> list[Row]:
    """Prompts with their answers as our own columns hold them. Raises RecordError."""
    pairs = record.get(column)
    if pairs is not None and not isinstance(pairs, list):
        raise RecordError("wrong_type", column, pairs)
    return [_own(column, one) for one in pairs or ()]


def _own(column: str, value: object) -> Row:
    if not isinstance(value, Mapping):
        raise RecordError("wrong_type", column, value)
    answer = next((value[name] for name in ANSWERS if value.get(name) is not None), None)
    answer = next(iter(_flattened(answer)), None) if isinstance(answer, list) else answer
    return {"prompt": as_text(column, value.get("prompt")), "answer": as_text(column, answer)}
