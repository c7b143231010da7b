"""The ledger that a release carries, and the files that it consumed; the current ones of a model.

The bridge between manifests, which name blobs, and the ledger, which knows of none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from corrigenda.storage.corrections import ledger
from corrigenda.storage.corrections.ledger import Entry, Ledger
from corrigenda.storage.corrections.rules import STATES
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.keys import NOBODY, Keyring
from corrigenda.storage.releases import chronicle, manifests, refs, signatures
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.refs import Seen


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a model's `latest` says: all of it was read from the one manifest that the ref names.

    seen      what a compare-and-swap of `latest` needs
    release   None for a model that is not registered yet
    consumed  digests of the queue files whose rows are in the ledger
    """

    seen: Seen
    release: Release | None
    ledger: Ledger
    consumed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Head:
    """A `Snapshot` without the ledger. `counts` are its entries by state, as the manifest has them."""

    seen: Seen
    release: Release | None
    consumed: frozenset[str]

    @property
    def counts(self) -> dict[str, int]:
        said = self.release.counts if self.release else {}
        return {state: int(said.get(state, 0)) for state in STATES}


@dataclass(frozen=True, slots=True)
class Episode:
    """One state of one version of a correction, and the release that brought it.

    at      when that release was made, ISO 8601, UTC
    by_id   the other correction that superseded it, where there is one
    """

    release: int
    at: str
    entry: Entry
    by_id: str | None = None


def current(state: ObjectStore, model: str, keys: Keyring = NOBODY) -> Snapshot:
    """The model's present ledger.

    keys   where there are some, one of them must have sealed the ref and signed the release: ledger, parent
           and files are named by that release's digest, and are as good as it is

    Raises CorruptBlobError, SignatureError.
    """
    seen = refs.read(state, model, "latest")
    if seen.ref is None:
        return Snapshot(seen, None, ledger.empty(), frozenset())
    refs.require_sealed(seen.ref, model, "latest", keys)
    release = manifests.by_digest(state, seen.ref.manifest)
    if keys.checks:
        signatures.require(state, release, keys)
    return Snapshot(seen, release, ledger_of(state, release), consumed_of(state, release))


def head(state: ObjectStore, model: str) -> Head:
    """Where a model stands, without the many rows of its ledger. Raises CorruptBlobError."""
    seen = refs.read(state, model, "latest")
    if seen.ref is None:
        return Head(seen, None, frozenset())
    release = manifests.by_digest(state, seen.ref.manifest)
    return Head(seen, release, consumed_of(state, release))


def ledger_of(state: ObjectStore, release: Release) -> Ledger:
    """The ledger of a release; the base's is empty."""
    return ledger.from_parquet(blobs.get(state, release.ledger.digest)) if release.ledger else ledger.empty()


def consumed_of(state: ObjectStore, release: Release) -> frozenset[str]:
    """Digests of the queue files that a release consumed; none for the base."""
    if release.consumed is None:
        return frozenset()
    return ledger.consumed_from_parquet(blobs.get(state, release.consumed.digest))


def put(state: ObjectStore, kept: Ledger, consumed: frozenset[str]) -> tuple[BlobRef, BlobRef]:
    """Store both, for a manifest to name: (ledger, consumed). Putting twice is putting once."""
    consumed_ref = blobs.put(state, ledger.consumed_to_parquet(consumed))
    return blobs.put(state, kept.to_parquet()), consumed_ref


def episodes(state: ObjectStore, model: str, correction_id: str) -> Iterator[Episode]:
    """What became of a correction, release by release from the oldest; only where something changed."""
    for line, row in chronicle.rows_of(state, model, correction_id):
        yield Episode(line.number, line.created_at, ledger.entry_of(row), row["by_id"])
