"""What a person is shown of a night's corrections, where all of them would be too many."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from corrigenda.storage.corrections.ledger import Ledger

_SHOWN = 5
_COLUMNS = ["correction_id", "prompt", "expected", "says_before", "says_after"]


def samples_of(rows: pa.Table, news: Collection[str]) -> list[dict[str, Any]]:
    """Some corrections before and after, tonight's first; rows as in validation.tables.ROWS."""
    asked = rows.filter(pc.equal(rows["kind"], "rewrite")).select(_COLUMNS).to_pylist()
    return sorted(asked, key=lambda row: row["correction_id"] not in news)[:_SHOWN]


def sent_out(before: Ledger, after: Ledger) -> list[dict[str, Any]]:
    """Corrections that were sent into quarantine between two ledgers, and why."""
    old = {entry.digest for entry in before.entries if entry.state == "quarantined"}
    new = (entry for entry in after.entries if entry.state == "quarantined" and entry.digest not in old)
    return [{"correction_id": entry.correction.correction_id, "why": entry.why} for entry in new]
