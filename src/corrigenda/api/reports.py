"""What a report is about: the release, what its ledger holds back, and what leads to its very bytes."""

from __future__ import annotations

import json
import warnings
from typing import Any

import duckdb
import pyarrow as pa

from corrigenda.api.opened import store_of
from corrigenda.api.values import Report
from corrigenda.config import FleetConfig
from corrigenda.storage.delivery.pull import parse_target, resolve
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import history
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.snapshots import ledger_of
from corrigenda.validation.report import Subject, render
from corrigenda.validation.results import connect, listed


def report(fleet: FleetConfig, target: str) -> Report:
    """The page about `MODEL[@REF]`."""
    store = store_of(fleet)
    release = resolve(store, *parse_target(target))
    behind = [listed(one) for one in history.ancestry(store, release.digest)]
    try:
        with connect(store, behind) as connection:
            page = render(connection, subject_of(store, release))
    except (duckdb.Error, pa.ArrowException, OSError):  # once more over the results that are whole
        with connect(store, behind, warn=warnings.warn) as connection:
            page = render(connection, subject_of(store, release))
    return Report(release.model, release.number, page)


def subject_of(store: ObjectStore, release: Release) -> Subject:
    """A release as the report has it."""
    return Subject(
        model=release.model,
        number=release.number,
        created_at=release.created_at,
        layer=release.layer,
        gates=release.gates,
        layers=release.settings.get("localization"),
        quarantined=_sent_out(store, release),
        provenance=_provenance(release),
    )


def _sent_out(store: ObjectStore, release: Release) -> list[dict[str, Any]]:
    """Corrections that the release's ledger holds back, with the reason."""
    return [
        {
            "correction_id": entry.correction.correction_id,
            "prompt": entry.correction.request.text,
            "target_new": entry.correction.target_new,
            "state": entry.state,
            "reason": entry.why or "",
            "came_back": entry.mark.evidence.get("came_back", []) if entry.mark else [],
        }
        for entry in ledger_of(store, release).entries
        if entry.state in ("quarantined", "rejected")
    ]


def _provenance(release: Release) -> dict[str, Any]:
    """What a reader needs to find the very bytes again."""
    base, counts = release.base, dict(release.counts)
    editing = release.settings.get("editing")
    told = {
        "manifest": release.digest,
        "follows": release.parent,
        "base": base.get("source"),
        "base weights": base.get("weights_digest"),
        "tokenizer": base.get("tokenizer_digest"),
        "ledger": release.ledger.digest if release.ledger else None,
        "run": counts.pop("run_id", None),
        "corrections by state": ", ".join(f"{name} {count}" for name, count in counts.items()),
        "editing": json.dumps(editing, sort_keys=True) if editing is not None else None,
        "bytes": f"{release.size:,} in {len(release.files)} files",
    }
    return {label: value for label, value in told.items() if value}
