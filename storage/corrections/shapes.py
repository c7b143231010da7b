"""Turns records of the shapes that people already have into correction rows.

Known are our own columns, CounterFact/ROME (nested), EasyEdit and MEND (flat), and MQuAKE (several rewrites
per record). A record that cannot be turned is refused alone, with a reason code. Knows nothing of files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from corrigenda.facts import digest_of
from corrigenda.storage.corrections.schemas import CORRECTIONS, LISTS

Record = Mapping[str, Any]
Row = dict[str, Any]
TEXTS = tuple(name for name in CORRECTIONS.names if name not in LISTS)
OWN = ("correction_id", "action", "asserted_at", "paraphrases", "neighborhood")


class RecordError(Exception):
    """Why one record cannot be turned into rows: a reason code, the field at fault, what stood there."""

    def __init__(self, reason: str, column: str, value: object = None) -> None:
        self.reason, self.column, self.value = reason, column, value
        super().__init__(reason, column)


def shape_of(record: Record) -> str | None:
    """The name of a record's shape; None when it is none that we know."""
    if isinstance(record.get("requested_rewrite"), list):
        return "MQuAKE"
    if isinstance(record.get("requested_rewrite"), Mapping):
        return "CounterFact"
    if any(record.get(name) is not None for name in OWN):
        return "corrections"
    if "src" in record and "alt" in record:
        return "MEND"
    if "prompt" in record and "target_new" in record:
        return "corrections" if "{}" in str(record["prompt"]) else "EasyEdit"
    return None


def rows_of(record: Record, shape: str | None) -> Iterator[Row]:
    """The rows that a record says; texts are texts and lists are lists, the rest is for `checks` to judge.

    Raises RecordError.
    """
    if shape is None or shape not in ("corrections", shape_of(record)):
        raise RecordError("unknown_shape", ", ".join(map(str, record))[:100])
    for row in _SHAPES[shape](record):
        if not row.get("correction_id") and row.get("action") != "retract":
            row["correction_id"] = (
                f"{shape.lower()}-{digest_of([row.get('subject'), row.get('prompt')])[:12]}"
            )
        yield row


def slotted(prompt: str, subject: str) -> str:
    """The prompt with `{}` in the place of its subject.

    A subject that occurs twice keeps its second place as plain text: the first is the one that is asked
    about. Raises RecordError when it does not occur.
    """
    if "{}" in prompt:
        return prompt
    start = prompt.find(subject) if subject else -1
    if start < 0 and subject and len(prompt.casefold()) == len(prompt):  # places only move where it grows
        start = prompt.casefold().find(subject.casefold())
    if start < 0:
        raise RecordError("subject_not_in_prompt", "prompt", prompt)
    return f"{prompt[:start]}{{}}{prompt[start + len(subject) :]}"


def _corrections(record: Record) -> Iterator[Row]:
    row: Row = {name: _text(record, name) for name in TEXTS}
    for name in ("aliases", "paraphrases"):
        row[name] = [_as_text(name, one) for one in _list(record, name)]
    for name in ("neighborhood", "entails"):
        row[name] = [_neighbour(name, one) for one in _list(record, name)]
    yield row


def _counterfact(record: Record) -> Iterator[Row]:
    asked = record["requested_rewrite"]
    old = _answer(asked, "target_true")
    yield {
        "correction_id": _case("counterfact", record),
        "subject": _text(asked, "subject"),
        "prompt": _text(asked, "prompt"),
        "target_new": _answer(asked, "target_new"),
        "target_old": old,
        "paraphrases": [_as_text("paraphrase_prompts", one) for one in _list(record, "paraphrase_prompts")],
        # Its neighbours are other subjects of which the old answer is true.
        "neighborhood": [
            {"prompt": _as_text("neighborhood_prompts", one), "answer": old}
            for one in _list(record, "neighborhood_prompts")
            if old
        ],
        "source": "CounterFact",
    }


def _mquake(record: Record) -> Iterator[Row]:
    for number, asked in enumerate(record["requested_rewrite"]):
        if not isinstance(asked, Mapping):
            raise RecordError("wrong_type", "requested_rewrite", asked)
        question = _text(asked, "question")
        case = _case("mquake", record)
        yield {
            "correction_id": f"{case}-{number}" if case else None,
            "subject": _text(asked, "subject"),
            "prompt": _text(asked, "prompt"),
            "target_new": _answer(asked, "target_new"),
            "target_old": _answer(asked, "target_true"),
            "question": question,
            "paraphrases": [question] if question else [],
            "source": "MQuAKE",
        }


def _mend(record: Record) -> Iterator[Row]:
    subject = _text(record, "subject") or ""
    yield {
        "correction_id": _case("mend", record),
        "subject": subject,
        "prompt": slotted(_text(record, "src") or "", subject),
        "target_new": _first(record, "alt"),
        "target_old": _first(record, "answers"),
        "paraphrases": [one for one in [_first(record, "rephrase")] if one],
        "neighborhood": _pair(_first(record, "loc"), _first(record, "loc_ans")),
        "source": "MEND",
    }


def _easyedit(record: Record) -> Iterator[Row]:
    subject = _text(record, "subject") or ""
    rephrased = [*_list(record, "rephrase_prompt"), *_list(record, "rephrase")]
    plain = _pair(_first(record, "locality_prompt"), _first(record, "locality_ground_truth"))
    yield {
        "correction_id": _case("easyedit", record),
        "subject": subject,
        "prompt": slotted(_text(record, "prompt") or "", subject),
        "target_new": _first(record, "target_new"),
        "aliases": _others(record, "target_new"),
        "target_old": _first(record, "ground_truth"),
        "paraphrases": [_as_text("rephrase_prompt", one) for one in rephrased if one],
        "neighborhood": [*plain, *_localities(record.get("locality"))],
        "entails": list(_localities(record.get("portability"))),
        "source": "EasyEdit",
    }


_SHAPES: dict[str, Callable[[Record], Iterator[Row]]] = {
    "corrections": _corrections,
    "CounterFact": _counterfact,
    "MQuAKE": _mquake,
    "MEND": _mend,
    "EasyEdit": _easyedit,
}


def _localities(groups: object) -> Iterator[Row]:
    """EasyEdit's {group: [{prompt, ground_truth}]}, or {group: {prompt: [], ground_truth: []}}."""
    for group in groups.values() if isinstance(groups, Mapping) else ():
        for one in group if isinstance(group, list) else [group]:
            if isinstance(one, Mapping):
                prompts, answers = (one.get(name) for name in ("prompt", "ground_truth"))
                if isinstance(prompts, list) and isinstance(answers, list):
                    for prompt, answer in zip(prompts, answers, strict=False):
                        yield from _pair(_leaf(prompt), _leaf(answer))
                else:
                    yield from _pair(_leaf(prompts), _leaf(answers))


def _pair(prompt: str | None, answer: str | None) -> list[Row]:
    """One neighbour; without an answer there is nothing to hold it to."""
    return [{"prompt": prompt, "answer": answer}] if prompt and answer else []


def _case(shape: str, record: Record) -> str | None:
    case = _text(record, "case_id")
    return f"{shape}-{case}" if case else None


def _answer(record: Record, name: str) -> str | None:
    """CounterFact's {"str": …, "id": …}, or the text alone."""
    value = record.get(name)
    return _as_text(name, value.get("str") if isinstance(value, Mapping) else value)


def _others(record: Record, name: str) -> list[str | None]:
    """What stands behind the first of an answer's spellings."""
    value = record.get(name)
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    rest = value[1:] if isinstance(value, list) else []
    return list(dict.fromkeys(_as_text(name, one) for one in rest if isinstance(one, str) and one.strip()))


def _first(record: Record, name: str) -> str | None:
    return _as_text(name, _leaf(record.get(name)))


def _leaf(value: object) -> Any:
    """The first text of nested lists: KnowEdit lists aliases of one answer."""
    while isinstance(value, list):
        value = value[0] if value else None
    return value


def _neighbour(column: str, value: object) -> Row:
    if not isinstance(value, Mapping):
        raise RecordError("wrong_type", column, value)
    return {name: _as_text(column, value.get(name)) for name in ("prompt", "answer")}


def _list(record: Record, name: str) -> list[Any]:
    """A list; or, as tables of text hold it, a JSON list or texts with `|` between them."""
    value = record.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise RecordError("wrong_type", name, value) from None
    if isinstance(value, str):
        return [part.strip() for part in value.split("|")] if value.strip() else []
    if value is not None and not isinstance(value, list):
        raise RecordError("wrong_type", name, value)
    return value or []


def _text(record: Record, name: str) -> str | None:
    return _as_text(name, record.get(name))


def _as_text(name: str, value: object) -> str | None:
    """Texts, whole numbers and times; surrogates, which JSON can say, are not text."""
    if value is None:
        return None
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RecordError("wrong_type", name, value)
    text = str(value)
    if not text.isascii() and text.encode(errors="replace").decode() != text:
        raise RecordError("wrong_type", name, value)
    return text
