"""Where a release came from, in the shape of an in-toto statement with a SLSA provenance predicate.

Any tool that reads such statements can tell which bytes were made from which; nothing is signed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from corrigenda.storage.releases.manifests import Release
from corrigenda.version import __version__

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://corrigenda.dev/rebase/v1"


def statement(release: Release, *, parent: Release | None, details: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of a release that has all but its provenance.

    parent    the release it follows; its unchanged files are not listed again
    details   what the caller knows of the run: its id, versions, the device
    """
    known = set(parent.files.values()) if parent else set()
    subject = [
        {"name": path, "digest": {"sha256": ref.digest}}
        for path, ref in sorted(release.files.items())
        if ref not in known
    ]
    return {
        "_type": STATEMENT,
        "subject": subject,
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"model": release.model, "source": release.base.get("source")},
                "internalParameters": {"layer": release.layer, "settings": dict(release.settings)},
                "resolvedDependencies": _materials(release),
            },
            "runDetails": {
                "builder": {"id": "corrigenda", "version": {"corrigenda": __version__}},
                "metadata": {"finishedOn": release.created_at, **details},
            },
        },
    }


def _materials(release: Release) -> list[dict[str, Any]]:
    """What went in: the base's weights and tokenizer, the ledger, the parent."""
    named = {
        "base/weights": release.base.get("weights_digest"),
        "base/tokenizer": release.base.get("tokenizer_digest"),
        "ledger": release.ledger.digest if release.ledger else None,
        "parent": release.parent,
    }
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in named.items() if digest]
