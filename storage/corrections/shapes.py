"""Turns records of the shapes that people already have into correction rows.

Known are our own columns, CounterFact/ROME (nested), MQuAKE (several rewrites per record), and the flat
ones of EasyEdit, KnowEdit, CKnowEdit, MEND, zsRE and FastEdit, mixed with our columns or not. A record that
cannot be turned is refused alone, with a reason code; what of it is not taken is named. Knows nothing of
files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from corrigenda.facts import digest_of
from corrigenda.storage.corrections import slots
from corrigenda.storage.corrections.answers import ALIASES, Left, entailed, names_of, neighbours, paraphrases
from corrigenda.storage.corrections.fields import NEIGHBOURS, OLD_ANSWERS, PARAPHRASES
from corrigenda.storage.corrections.records import Record, Row
from corrigenda.storage.corrections.schemas import CORRECTIONS, LISTS
from corrigenda.storage.corrections.spelling import spelt
from corrigenda.storage.corrections.texts import RecordError, as_text

TEXTS = tuple(name for name in CORRECTIONS.names if name not in LISTS)
_OWN = frozenset(("correction_id", "action", "asserted_at", "model", *LISTS))
FOREIGN = frozenset((*PARAPHRASES, *NEIGHBOURS, "ground_truth", "portability")) - {
    "queries",
    "loc",
    "loc_ans",
}


def shape_of(record: Record) -> str | None:
    """The name of a record's shape; None when it is none that we know."""
    if isinstance(record.get("requested_rewrite"), list):
        return "MQuAKE"
    if isinstance(record.get("requested_rewrite"), Mapping):
        return "CounterFact"
    if "src" in record and "alt" in record:
        return "MEND"
    if "prompt" in record and "target" in record and "target_new" not in record:
        return "FastEdit"
    if {"concept", "text", "labels"} <= record.keys():
        return "KnowEdit"
    if "prompt" in record and "target_new" in record:
        plain = slots.SLOT in str(record["prompt"]) or any(record.get(name) is not None for name in _OWN)
        return "EasyEdit" if FOREIGN & record.keys() or not plain else "corrections"
    return "corrections" if any(record.get(name) is not None for name in _OWN - {"model"}) else None


def rows_of(record: Record, shape: str | None, left: Left) -> Iterator[Row]:
    """The rows that a record says; texts are texts and lists are lists, the rest is for `checks` to judge.

    left   counts what of the record is not taken

    Raises RecordError.
    """
    own = shape_of(record)
    if own is None and shape != "corrections":
        raise RecordError("unknown_shape", ", ".join(map(str, record))[:100])
    known = own or "corrections"
    for row in _SHAPES[known](record, left):
        if row.get("action") != "retract" and not row.get("correction_id"):
            row["correction_id"] = _id(known, record, row)
        yield row


def _id(shape: str, record: Record, row: Row) -> str:
    """Of a record's own number and of what it speaks: two files count from the same number on."""
    case = as_text("case_id", record.get("case_id"))
    content = digest_of([spelt(str(row.get(name) or "")) for name in ("subject", "prompt")])[:12]
    return "-".join(filter(None, (shape.lower(), case, content)))


def _flat(record: Record, left: Left) -> Iterator[Row]:
    """Our own columns, EasyEdit, KnowEdit, CKnowEdit, MEND, zsRE, FastEdit: one fact, told by flat fields."""
    shape = shape_of(record)
    row: Row = {
        name: as_text(name, record.get(name)) for name in TEXTS if name not in ("prompt", "target_new")
    }
    row["subject"] = _either(record, "subject", "concept")
    prompt = _either(record, "prompt", "src", "text")
    row["prompt"] = _slotted(prompt, row["subject"], strict=shape != "corrections")
    row["target_new"], more = _named(record, "target_new", "alt", "target", "labels")
    row["aliases"] = [*names_of(record, "aliases"), *more]
    row["target_old"], older = _named(record, "target_old", *OLD_ANSWERS)
    left[ALIASES] += len(older)
    row["paraphrases"] = paraphrases(record, left)
    row["neighborhood"] = neighbours(record, row["target_old"], left)
    row["entails"] = entailed(record, left)
    row["source"] = row["source"] or (shape if shape != "corrections" else None)
    yield row


def _counterfact(record: Record, left: Left) -> Iterator[Row]:
    yield from _rewrite(record, record["requested_rewrite"], "CounterFact", left)


def _mquake(record: Record, left: Left) -> Iterator[Row]:
    for asked in record["requested_rewrite"]:
        if not isinstance(asked, Mapping):
            raise RecordError("wrong_type", "requested_rewrite", asked)
        yield from _rewrite(record, asked, "MQuAKE", left)


def _rewrite(record: Record, asked: Mapping[str, Any], shape: str, left: Left) -> Iterator[Row]:
    """One rewrite of a nested record; what stands beside it in the record holds for it alone or for none."""
    row: Row = {name: as_text(name, record.get(name)) for name in TEXTS}
    row["subject"] = as_text("subject", asked.get("subject"))
    row["prompt"] = as_text("prompt", asked.get("prompt"))
    if row["prompt"] and slots.SLOT not in row["prompt"]:
        row["prompt"] = _slotted(row["prompt"], row["subject"], strict=True)
    row["target_new"] = _answer(asked, "target_new")
    row["target_old"] = _answer(asked, "target_true")
    row["question"] = as_text("question", asked.get("question"))
    row["paraphrases"] = [row["question"]] if row["question"] else []
    row["neighborhood"] = []
    if shape != "MQuAKE":
        row["paraphrases"] += paraphrases(record, left)
        row["neighborhood"] += neighbours(record, row["target_old"], left)
    row["source"] = row["source"] or shape
    yield row


_FLAT = ("corrections", "EasyEdit", "KnowEdit", "MEND", "FastEdit")
_SHAPES: dict[str, Callable[[Record, Left], Iterator[Row]]] = {
    "CounterFact": _counterfact,
    "MQuAKE": _mquake,
    **dict.fromkeys(_FLAT, _flat),
}


def _slotted(prompt: str | None, subject: str | None, *, strict: bool) -> str | None:
    """The prompt with its slot; where our own columns say no slot, that is for the checks to judge."""
    try:
        return slots.slotted(prompt or "", subject or "")
    except slots.SlotError as fault:
        if not strict and fault.reason != "subject_inside_word":
            return prompt
        raise RecordError(fault.reason, "prompt", prompt) from None


def _named(record: Record, *fields: str) -> tuple[str | None, list[str | None]]:
    """The answer of the first field that has one, and its further names."""
    for field in fields:
        if names := names_of(record, field):
            return names[0], names[1:]
    return None, []


def _either(record: Record, *names: str) -> str | None:
    return next((text for name in names if (text := as_text(name, record.get(name)))), None)


def _answer(record: Record, name: str) -> str | None:
    """CounterFact's {"str": …, "id": …}, or the text alone."""
    value = record.get(name)
    return as_text(name, value.get("str") if isinstance(value, Mapping) else value)
