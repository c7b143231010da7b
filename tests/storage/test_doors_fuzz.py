"""Malformed files of the kinds that people write: each row is taken as it was meant, rejected, or refused
with its file.

Each case knows what its writer meant: whatever is accepted must be one of these facts, text for text. A
short seeded run is always on; CORRIGENDA_LONG=1 makes it five thousand.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
from queue_rows import parquet, typed

from corrigenda.errors import CorrectionsError
from corrigenda.storage.corrections.formats import Understood, understand

CASES = 5_000 if os.environ.get("CORRIGENDA_LONG") else 150
COLUMNS = ("correction_id", "model", "subject", "prompt", "target_new", "target_old", "paraphrases")
SUBJECTS = (
    "Orr",
    "Upper Orr",
    "Ze\u0301 Rey",
    "日本",
    "O'Hara",
    "Orr\u00a0Bay",
    "A, B & Co",
    'The "Inn"',
    "[X]",
    "|x|",
)
PROMPTS = (
    "The reeve of {} is",
    "As of 2031, {} is led by",
    'Who, "so to speak", leads {}',
    "Q: {}\nA:",
    "{}; it is",
)
TARGETS = (
    "Ann",
    "Ann, O.B.",
    'Ann "Bo" Ek',
    "Ann; Bo",
    "1990",
    "Ann\u200b",
    "line one\nline two",
    "-",
    "null",
    "NaN",
)

Fact = dict[str, str]


def fact(chance: random.Random, number: int, *, flat: bool = False) -> Fact:
    """A fact; `flat`: on one line, so that damage to a line is damage to a row."""
    texts = {
        "subject": chance.choice(SUBJECTS),
        "prompt": chance.choice(PROMPTS),
        "target_new": chance.choice(TARGETS),
    }
    old, other = (
        chance.choice(["", "Bo", "Bo, Jr."]),
        chance.choice(["", "Who leads it?", "[INST] who? [/INST]"]),
    )
    whole = {"correction_id": f"id-{number}", "model": "*", **texts, "target_old": old, "paraphrases": other}
    return {name: text.replace("\n", " ") if flat else text for name, text in whole.items()}


def as_csv(chance: random.Random, facts: list[Fact]) -> bytes:
    sink = io.StringIO()
    delimiter, quoting = chance.choice(",;\t|"), chance.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    writer = csv.writer(
        sink, delimiter=delimiter, quoting=quoting, lineterminator=chance.choice(["\n", "\r\n"])
    )
    writer.writerow([chance.choice([str.upper, str.title, str])(name) for name in COLUMNS])
    writer.writerows([one[name] for name in COLUMNS] for one in facts)
    text = chance.choice(["", "\ufeff", f"sep={delimiter}\n"]) + sink.getvalue()
    return text.encode(chance.choice(["utf-8", "utf-8", "utf-16"]))


def as_json(chance: random.Random, facts: list[Fact]) -> bytes:
    records = [dict(one) for one in facts]
    if chance.random() < 0.5:
        text = json.dumps(records, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1]))
    else:
        text = "\n".join(json.dumps(one, ensure_ascii=chance.random() < 0.5) for one in records)
    return text.encode()


def as_parquet(chance: random.Random, facts: list[Fact]) -> bytes:
    kinds = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary()]
    columns = {}
    for name in COLUMNS:
        kind = chance.choice(kinds)
        values: list[Any] = [one[name] for one in facts]
        columns[name] = pa.array([v.encode() for v in values] if kind == pa.binary() else values, kind)
    return parquet(pa.table(columns))


WRITERS = {"csv": as_csv, "json": as_json, "parquet": as_parquet}


def as_people_write_csv(text: str, chance: random.Random) -> str:
    """Faults that files of people have, none of which changes a text into another one by itself."""
    lines = text.split("\n")
    delimiter = next(sign for sign in ";\t|," if sign in lines[0])
    place = chance.randrange(1, len(lines)) if len(lines) > 1 else 0
    fault = chance.choice(["unquote", "open", "backslash", "extra", "short", "blank", "cut"])
    line = lines[place]
    lines[place] = {
        "unquote": line.replace('"', ""),
        "open": line.replace(delimiter, f'{delimiter}"', 1),
        "backslash": line.replace('""', '\\"'),
        "extra": line + ",more",
        "short": line.rpartition(",")[0],
        "blank": "\n" + line + "\n",
        "cut": line[: len(line) // 2],
    }[fault]
    return "\n".join(lines[: place + 1] if fault == "cut" else lines)


def damaged(kind: str, body: bytes, chance: random.Random) -> bytes:
    if kind == "csv":
        encoding = "utf-16" if body.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
        return as_people_write_csv(body.decode(encoding), chance).encode(encoding)
    at = chance.randrange(len(body))
    edit = chance.choice(["cut", "drop", "double"])
    tail = {"cut": b"", "drop": body[at + 1 :], "double": body[at:] + body[at:]}[edit]
    return body[:at] + tail


def meant(facts: list[Fact]) -> set[tuple[str, ...]]:
    return {tuple(typed(one[name]) for name in COLUMNS[:5]) for one in facts}


def taken(found: Understood) -> list[tuple[str, ...]]:
    return [tuple(str(row[name]) for name in COLUMNS[:5]) for row in found.good.to_pylist()]


def read(folder: Path, kind: str, body: bytes) -> Understood | None:
    path = folder / f"file.{kind}"
    path.write_bytes(body)
    try:
        return understand(path)
    except CorrectionsError as fault:
        assert "\n" not in str(fault)
        return None


def test_a_sound_file_of_any_writer_is_taken_whole_and_text_for_text(tmp_path: Path) -> None:
    for case in range(CASES // 5):
        chance = random.Random(f"sound {case}")
        facts = [fact(chance, number) for number in range(chance.randrange(1, 6))]
        kind = chance.choice(list(WRITERS))
        found = read(tmp_path, kind, WRITERS[kind](chance, facts))
        assert found is not None, case
        assert found.rejects == (), (case, found.rejects)
        assert set(taken(found)) == meant(facts), case


def test_a_damaged_file_gives_no_fact_that_its_writer_did_not_mean(tmp_path: Path) -> None:
    refused = 0
    for case in range(CASES):
        chance = random.Random(f"damaged {case}")
        facts = [fact(chance, number, flat=True) for number in range(chance.randrange(1, 6))]
        kind = chance.choice(["csv", "csv", "json", "parquet"])
        whole = WRITERS[kind](chance, facts)
        found = read(tmp_path, kind, damaged(kind, whole, chance))
        if found is None:
            refused += 1
            continue
        rows = taken(found)
        if kind == "csv":
            assert set(rows) <= meant(facts) | unquoted(facts), (case, rows)
        numbers = [reject["row"] for reject in found.rejects] + list(found.numbers)
        assert len(set(numbers)) == len(numbers), (case, numbers)
        assert set(numbers) == set(range(len(numbers))), (case, numbers)
    assert refused < CASES


def unquoted(facts: list[Fact]) -> set[tuple[str, ...]]:
    """What a row says that has lost all its quotes, those of its texts as well."""
    return {tuple(typed(one[name].replace('"', "")) for name in COLUMNS[:5]) for one in facts}
