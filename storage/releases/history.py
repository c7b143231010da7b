"""The releases behind a release or a ref, newest first."""

from __future__ import annotations

from collections.abc import Iterator

from corrigenda.errors import NotFoundError
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import refs
from corrigenda.storage.releases.manifests import Release, by_digest


def ancestry(store: ObjectStore, digest: str | None) -> Iterator[Release]:
    """A release and those it follows, newest first; ends where an old one was cleaned away."""
    while digest is not None:
        try:
            release = by_digest(store, digest)
        except NotFoundError:
            return
        yield release
        digest = release.parent


def of_model(store: ObjectStore, model: str) -> Iterator[Release]:
    """The releases behind `latest`, newest first. Raises NotFoundError for an unknown model."""
    yield from ancestry(store, refs.require(store, model, "latest").manifest)
