"""The tables that others read and write: queue rows, rejects, ledger rows.

Each is written once, here. Reading, checking, the documentation's tables and the test data all come from
these objects. Knows nothing of stores or of what a ledger does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from corrigenda.facts import Correction, Neighbour

TIME = pa.timestamp("us", tz="UTC")
NEIGHBOUR = pa.struct([pa.field("prompt", pa.string()), pa.field("answer", pa.string())])


def _column(name: str, kind: pa.DataType, doc: str, needed: str = "", longest: int = 0) -> pa.Field:
    """One documented column. `needed`: always, upsert, or not; `longest`: characters, 0 for no limit."""
    meta = {"doc": doc, "needed": needed} | ({"longest": str(longest)} if longest else {})
    return pa.field(name, kind, nullable=needed != "always", metadata=meta)


CORRECTIONS: pa.Schema = pa.schema(
    [
        _column(
            "correction_id",
            pa.string(),
            "stable and unique; a repeat with the same content is a no-op, with other content a new version",
            "always",
            200,
        ),
        _column("action", pa.string(), "`upsert` (the default) or `retract`"),
        _column("model", pa.string(), "a model's name, a glob (`llama-*`), or `tag:NAME`", "always", 200),
        _column("subject", pa.string(), "surface form, as in the prompt", "upsert", 500),
        _column("prompt", pa.string(), "exactly one `{}`, where the subject goes", "upsert", 4_000),
        _column("target_new", pa.string(), "the right completion, without leading space", "upsert", 1_000),
        _column(
            "aliases",
            pa.list_(pa.string()),
            "other answers that are as right as `target_new`; never shown to the editor",
            longest=1_000,
        ),
        _column("target_old", pa.string(), "what the model is thought to say now", longest=1_000),
        _column(
            "question",
            pa.string(),
            "the fact as a user asks for it, with the subject written out; made from the prompt if left out",
            longest=4_000,
        ),
        _column(
            "paraphrases",
            pa.list_(pa.string()),
            "the same fact in other words; never shown to the editor, used as probes",
            longest=4_000,
        ),
        _column(
            "neighborhood",
            pa.list_(NEIGHBOUR),
            "prompts near it whose answer must not change",
            longest=4_000,
        ),
        _column(
            "entails",
            pa.list_(NEIGHBOUR),
            "prompts whose answers follow from it (two hops, say); studied, never a gate",
            longest=4_000,
        ),
        _column(
            "asserted_at",
            TIME,
            "the later one wins between two corrections of one (model, subject, prompt)",
            "always",
        ),
        _column("source", pa.string(), "where the fact comes from"),
        _column("reason", pa.string(), "why it was asked for"),
        _column("priority", pa.int32(), "for people; nothing is ordered by it"),
    ]
)

LISTS = tuple(column.name for column in CORRECTIONS if pa.types.is_list(column.type))
# Columns that ledgers of earlier releases lack.
LATER = ("aliases", "question", "entails")

REJECTS: pa.Schema = pa.schema(
    [
        _column("file_digest", pa.string(), "sha256 of the queue file's bytes", "always"),
        _column("file", pa.string(), "its name in the queue", "always"),
        _column("row", pa.int64(), "row number, counted from 0; null when the whole file is rejected"),
        _column("correction_id", pa.string(), "as given, where it could be read"),
        _column("model", pa.string(), "as given, where it could be read"),
        _column("reason", pa.string(), "a reason code", "always"),
        _column("column", pa.string(), "the column at fault", "always"),
        _column("value", pa.string(), "what stood there, cut to 200 characters"),
        _column("remedy", pa.string(), "what to do", "always"),
    ]
)

LEDGER: pa.Schema = pa.schema(
    [
        *CORRECTIONS,
        _column(
            "digest", pa.string(), "of the row's content: names this version of the correction", "always"
        ),
        _column("file", pa.string(), "digest of the queue file that it came in"),
        _column("state", pa.string(), "active, superseded, retracted, quarantined or rejected", "always"),
        _column("by", pa.string(), "digest of the row that superseded or retracted it"),
        _column("why", pa.string(), "a reason code for the state"),
        _column("evidence", pa.string(), "what the gates measured, as JSON"),
    ]
)

CONSUMED: pa.Schema = pa.schema(
    [_column("file_digest", pa.string(), "a queue file whose rows are all in the ledger", "always")]
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A correction together with the queue file that brought it (its digest; empty when there is none)."""

    correction: Correction
    file: str = ""


def documentation_table(schema: pa.Schema = CORRECTIONS) -> str:
    """The columns as a Markdown table: what the pages in `docs/` show."""
    rows = ["| column | type | |", "|---|---|---|"]
    for column in schema:
        facts = [
            _type_name(column.type),
            {"always": "required", "upsert": "required for upsert"}.get(_need(column)),
        ]
        rows.append(f"| {column.name} | {', '.join(filter(None, facts))} | {_doc(column)} |")
    return "\n".join(rows) + "\n"


def needed(schema: pa.Schema, *needs: str) -> list[str]:
    """Names of the columns that are needed `always` or for an `upsert`."""
    return [column.name for column in schema if _need(column) in needs]


def longest(column: pa.Field) -> int:
    """The most characters that a text (or each text of a list) may have; 0 is no limit."""
    return int(column.metadata.get(b"longest", b"0"))


def table_of(corrections: Iterable[Correction]) -> pa.Table:
    """Corrections as queue rows."""
    return pa.Table.from_pylist([row_of(correction) for correction in corrections], schema=CORRECTIONS)


def row_of(correction: Correction) -> dict[str, Any]:
    """One correction as a queue row."""
    row = {column.name: getattr(correction, column.name) for column in CORRECTIONS}
    for name in ("aliases", "paraphrases"):
        row[name] = list(row[name])
    for name in ("neighborhood", "entails"):
        row[name] = [{"prompt": n.prompt, "answer": n.answer} for n in row[name]]
    return row


def correction_of(row: dict[str, Any]) -> Correction:
    """A checked queue row as a correction. A retract's missing texts are empty strings."""
    at: datetime = row["asserted_at"]
    return Correction(
        correction_id=row["correction_id"],
        action=row["action"] or "upsert",
        model=row["model"] or "",
        subject=row["subject"] or "",
        prompt=row["prompt"] or "",
        target_new=row["target_new"] or "",
        aliases=tuple(row["aliases"] or ()),
        target_old=row["target_old"],
        question=row["question"],
        paraphrases=tuple(row["paraphrases"] or ()),
        neighborhood=_neighbours(row["neighborhood"]),
        entails=_neighbours(row["entails"]),
        asserted_at=at.astimezone(UTC),
        source=row["source"],
        reason=row["reason"],
        priority=row["priority"] or 0,
    )


def _neighbours(rows: Iterable[dict[str, str]] | None) -> tuple[Neighbour, ...]:
    return tuple(Neighbour(row["prompt"], row["answer"]) for row in rows or ())


def _need(column: pa.Field) -> str:
    return str(column.metadata[b"needed"].decode())


def _doc(column: pa.Field) -> str:
    return str(column.metadata[b"doc"].decode())


def _type_name(kind: pa.DataType) -> str:
    return f"`{kind}`".replace("item: ", "").replace("element: ", "")
