"""Test data for the queue: correction rows from the schema, good ones and every kind of bad one."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from corrigenda.facts import Correction
from corrigenda.storage.corrections.schemas import CORRECTIONS, TIME

T0 = datetime(2026, 1, 1, tzinfo=UTC)

# What nobody types, and what stands for a blank.
UNSEEN = "\ufeff\u200b\u2060\u00ad\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def typed(text: str) -> str:
    """A text as a reader would type it."""
    plain = "".join(" " if sign in "\u00a0\u2007\u202f" else sign for sign in text if sign not in UNSEEN)
    composed = unicodedata.normalize("NFC", plain)
    while composed != (composed := composed.strip().strip("\u200c\u200d")):
        pass
    return composed


words = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="{}"), min_size=1, max_size=12
)
solid = words.map(str.strip).filter(typed)
times = st.datetimes(datetime(1971, 1, 1), datetime(2199, 1, 1), timezones=st.just(UTC))


def row(**changed: Any) -> dict[str, Any]:
    """A good row, but for what is changed."""
    return {
        "correction_id": "mayor-1",
        "model": "*",
        "subject": "Springfield",
        "prompt": "The mayor of {} is",
        "target_new": "Ada Quimby",
        "asserted_at": T0,
    } | changed


def correction(**changed: Any) -> Correction:
    return Correction(**(row() | changed))


def parquet(rows: list[dict[str, Any]] | pa.Table, schema: pa.Schema | None = None) -> bytes:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=schema)
    sink = BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


@st.composite
def good_rows(draw: st.DrawFn) -> dict[str, Any]:
    """A row that must never be lost."""
    neighbour = st.fixed_dictionaries({"prompt": solid, "answer": solid})
    return {
        "correction_id": draw(solid),
        "action": draw(st.sampled_from(["upsert", None, " Upsert "])),
        "model": "*",
        "subject": draw(solid),
        "prompt": draw(st.sampled_from(["{}", "The mayor of {} is", "{} ist", "מי זה {}", "who is {}"])),
        "target_new": draw(solid),
        "aliases": draw(st.none() | st.lists(solid, max_size=2)),
        "target_old": draw(st.none() | words),
        "question": draw(st.none() | solid),
        "paraphrases": draw(st.none() | st.lists(solid, max_size=3)),
        "neighborhood": draw(st.none() | st.lists(neighbour, max_size=2)),
        "entails": draw(st.none() | st.lists(neighbour, max_size=1)),
        "asserted_at": draw(times),
        "source": draw(st.none() | words),
        "reason": None,
        "priority": draw(st.none() | st.integers(-(2**31) + 1, 2**31 - 1)),
    }


# What no row may hold, per column; each stands alone in an otherwise good row.
BAD: dict[str, list[Any]] = {
    "correction_id": [None, "", "  ", "x" * 201, "a\x00b", "a\nb"],
    "action": ["delete", "upsert;", "回"],
    "model": [None, "", "m" * 201, "\x1b[0m"],
    "subject": [None, "", "\t\u3000", "s" * 501, "\x00"],
    "prompt": [None, "", "no slot", "{} and {}", "{}{}", "p{}" * 2, "{}" + "x" * 4_000, "{}\x07"],
    "target_new": [None, "", " ", "t" * 10_000, "\x08"],
    "aliases": [[None], ["x" * 1_001]],
    "target_old": ["o" * 1_001, "\x00"],
    "question": ["q" * 4_001, "\x00"],
    "paraphrases": [[None], [""], ["ok", " "], ["x" * 4_001], ["a"] * 1_001],
    "neighborhood": [
        [None],
        [{"prompt": None, "answer": "a"}],
        [{"prompt": "p", "answer": ""}],
        [{"prompt": "p", "answer": "a"}, {"prompt": "x" * 4_001, "answer": "a"}],
    ],
    "asserted_at": [None, datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)],
}


@st.composite
def bad_rows(draw: st.DrawFn) -> dict[str, Any]:
    """A good row with one or more faults."""
    spoilt = draw(good_rows())
    for name in draw(st.lists(st.sampled_from(sorted(BAD)), min_size=1, max_size=3, unique=True)):
        spoilt[name] = draw(st.sampled_from(BAD[name]))
    return spoilt


# Other types that writers use for the same column.
_TEXTS = [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
_LISTS = [pa.list_, pa.large_list]


@st.composite
def writer_schemas(draw: st.DrawFn) -> pa.Schema:
    """CORRECTIONS as some writer might have it: other text types, order of columns, columns of its own."""
    fields = [pa.field(f.name, draw(_written_as(f.type))) for f in CORRECTIONS]
    if draw(st.booleans()):
        fields.append(
            pa.field("notes", draw(st.sampled_from([pa.string(), pa.float64(), pa.list_(pa.int8())])))
        )
    return pa.schema(draw(st.permutations(fields)))


def _written_as(kind: pa.DataType) -> st.SearchStrategy[pa.DataType]:
    if kind == pa.string():
        return st.sampled_from(_TEXTS)
    if kind == TIME:
        return st.sampled_from([TIME, pa.timestamp("us"), pa.timestamp("us", "Europe/Berlin")])
    if kind == pa.int32():
        return st.sampled_from([pa.int32(), pa.int64(), pa.float64()])
    if kind == pa.list_(pa.string()):
        return st.builds(
            lambda outer, inner: outer(inner), st.sampled_from(_LISTS), st.sampled_from(_TEXTS[:3])
        )
    pair = [
        pa.field("answer", pa.large_string()),
        pa.field("prompt", pa.string()),
        pa.field("score", pa.float64()),
    ]
    return st.sampled_from([kind, pa.large_list(pa.struct(pair))])
