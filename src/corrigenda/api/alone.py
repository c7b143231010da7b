"""What works without a fleet: a store, a queue, or a directory is all that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.config import Location

if TYPE_CHECKING:
    from corrigenda.api.values import Submitted
    from corrigenda.facts import Progress
    from corrigenda.storage.delivery.lora import Adapter
    from corrigenda.storage.delivery.pull import Pulled, Verified
    from corrigenda.storage.objects.interface import ObjectStore


def open_store(url: str, *, create: bool = False, **server: Any) -> ObjectStore:
    """The store or queue at `url`: a directory, or s3://bucket/prefix.

    create   make a directory that is not there
    server   endpoint_url, region, access_key, secret_key of an S3 server; default: boto3's surroundings

    Raises SetupError when it is not there or cannot be reached.
    """
    from corrigenda.storage.objects.opening import open_store as opened

    return opened(Location(url=url, **server), root=Path.cwd(), create=create)


def submit(
    what: Any,
    *,
    to: str | ObjectStore,
    model: str | None = None,
    asserted_at: datetime | None = None,
    source: str | None = None,
    encoding: str | None = None,
    dry_run: bool = False,
) -> Submitted:
    """Check corrections and put the good ones into the queue at `to`, knowing neither models nor store.

    what   a file, a list of dicts, or a data frame; see `Fleet.submit`

    A retract that is to take back a correction dated ahead of its time needs a later time of its own:
    `Fleet.submit` and `Fleet.retract` see to that.
    """
    from corrigenda.api import queueing

    queue = open_store(to, create=True) if isinstance(to, str) else to
    return queueing.submit(
        what, queue, model=model, asserted_at=asserted_at, source=source, encoding=encoding, dry_run=dry_run
    )


def pull(
    target: str,
    dest: Path | str,
    *,
    store: str | ObjectStore,
    cache: Path | None = None,
    repair: bool = False,
    trusted: Sequence[Path] = (),
    verify: bool = True,
    allow_older: bool = False,
    progress: Progress | None = None,
) -> Pulled:
    """Make `dest` a release of a store: verified, resumable, only what is missing, switched in one step.

    target        MODEL[@REF]; REF is latest (default), canary, or a number, of which 0 is the base
    dest          becomes a link to a finished Hugging Face directory
    store         a directory, s3://bucket/prefix, or what `open_store` gave
    cache         a folder of blobs that several destinations share by hard links
    repair        hash everything again, and mend what is wrong
    trusted       public keys (PEM files): only what one of them has signed is taken; none: those that `dest`
                  was verified with before
    verify        False: take what nobody has signed
    allow_older   take a ref that is older than what `dest` has seen, has expired, or has no seal
    progress      told the size of each part that has come, in bytes

    Raises NotFoundError, UsageError, SignatureError, CorruptBlobError (nothing was switched), StorageError.
    """
    from corrigenda.api import releases

    opened = open_store(store) if isinstance(store, str) else store
    return releases.pull(
        opened,
        target,
        Path(dest),
        cache=cache,
        repair=repair,
        trusted=trusted,
        verify=verify,
        allow_older=allow_older,
        progress=progress,
    )


def export_lora(
    target: str,
    dest: Path | str,
    *,
    store: str | ObjectStore,
    trusted: Sequence[Path] = (),
    allow_older: bool = False,
) -> Adapter:
    """Write a release of a store as a PEFT adapter for its base; with keys, both must be signed."""
    from corrigenda.api import releases

    opened = open_store(store) if isinstance(store, str) else store
    return releases.export_lora(opened, target, Path(dest), trusted, allow_older=allow_older)


def check(target: str, dest: Path | str, *, trusted: Sequence[Path] = ()) -> Verified:
    """Verify a pulled directory against its own manifest; needs no store and no network."""
    from corrigenda.api import releases

    return releases.check(target, Path(dest), trusted)
