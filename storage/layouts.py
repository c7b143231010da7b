"""Releases for consumers without corrigenda: a full Hugging Face prefix inside the store.

Assembled by the server from blobs that it has already, so that no byte is uploaded. Knows nothing of how
a release is made.
"""

from __future__ import annotations

from corrigenda.storage import blobs
from corrigenda.storage.manifests import Release
from corrigenda.storage.objects import ObjectStore

CONFIG = "config.json"


def prefix_of(release: Release) -> str:
    """Where the files of a release lie for those who read the bucket by themselves."""
    return f"hf/{release.model}/{release.number}/"


def assemble(store: ObjectStore, release: Release) -> str:
    """Copy every file of a release to its own name below `prefix_of`; returns that prefix.

    Prefixes are never changed once they are complete. `config.json` comes last: no loader takes a prefix
    without it for a model, so that half a copy is not loaded. Doing it twice is doing it once.

    Raises NotFoundError when a blob is gone, CorruptBlobError when a copy has another size.
    """
    prefix = prefix_of(release)
    for path in sorted(release.files, key=lambda path: (path == CONFIG, path)):
        ref = release.files[path]
        there = store.stat(prefix + path)
        if there is None or there.size != ref.size:
            store.copy(blobs.key(ref.digest), prefix + path)
            copied = store.stat(prefix + path)
            if copied is None or copied.size != ref.size:
                raise blobs.corrupt(store, ref.digest)
    return prefix
