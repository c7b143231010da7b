"""Rows and runs as validation makes them, made by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from corrigenda.validation.tables import ROWS


def row(kind, correction_id, number=0, *, before=True, after=True, **fields):
    """One row, as if the probe passed by a nat or failed by one."""
    plain = {
        "run_id": "r1", "release": 1, "model": "m", "scored_at": datetime(2026, 1, 1, tzinfo=UTC),
        "correction_id": correction_id, "probe_id": f"{kind}-{correction_id}-{number}", "kind": kind,
        "subject": correction_id, "prompt": f"{kind} {number} of {correction_id}",
        "expected": "yes", "other": "no",
        "tokens": 1, "logp_expected_before": -1.0 if before else -3.0, "logp_other_before": -2.0,
        "logp_expected_after": -1.0 if after else -3.0, "logp_other_after": -2.0,
        "rank_before": 1 if before else 2, "rank_after": 1 if after else 2,
        "says_before": "yes" if before else "no", "says_after": "yes" if after else "no",
        "pass_before": before, "pass_after": after, "kl": None,
    }  # fmt: skip
    return plain | fields


def drift_row(number=0, *, before=-3.0, after=-3.0, kl=0.0, tokens=100):
    fields = {"logp_expected_before": before, "logp_expected_after": after, "kl": kl, "tokens": tokens}
    empty = dict.fromkeys(("other", "logp_other_before", "logp_other_after", "rank_before", "rank_after"))
    nothing = dict.fromkeys(("says_before", "says_after", "pass_before", "pass_after"))
    return row("drift", "", number) | empty | nothing | fields


def table(rows):
    return pa.Table.from_pylist(rows, schema=ROWS)


def healthy(count=40, neighbours=5):
    """Corrections that all work and break nothing; each has a target of its own."""
    rows = [drift_row(0), drift_row(1)]
    for number in range(count):
        name = f"c{number:03}"
        rows.append(
            row("rewrite", name, before=False, expected=f"target {number}", says_after=f"target {number}")
        )
        rows += [row("paraphrase", name, i, before=False) for i in range(2)]
        rows += [row("locality", name, i) for i in range(neighbours)]
    return rows


def changed(rows, kind, correction_id, **fields):
    return [r | fields if (r["kind"], r["correction_id"]) == (kind, correction_id) else r for r in rows]


BROKEN = {"pass_after": False, "logp_expected_after": -6.0, "says_after": "no"}


def run(number, *, model="m", rows=None, release=None):
    """The rows of the `number`-th night."""
    at = datetime(2026, 1, 1, 3, tzinfo=UTC) + timedelta(days=number)
    facts = {"run_id": f"run-{number}", "release": number if release is None else release}
    return table([r | facts | {"model": model, "scored_at": at} for r in rows or healthy(6)])


def released(*numbers, model="m"):
    return [
        {"model": model, "release": n, "run_id": f"run-{n}", "created_at": "", "layer": 3, "manifest": "d"}
        for n in numbers
    ]
