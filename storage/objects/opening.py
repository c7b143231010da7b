"""Opens the store at an address: a directory or a bucket."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from corrigenda.config import Location
from corrigenda.errors import UsageError
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.local import LocalStore


def open_store(
    location: Location, *, root: Path, create: bool = False, absent_ok: bool = False
) -> ObjectStore:
    """The store at `location`; a relative directory is taken from `root`.

    create      whether a missing directory is made. A bucket is never made.
    absent_ok   a missing directory is an empty store, for those who only read

    Raises SetupError when there is no such directory or the bucket cannot be reached, UsageError when
    the address has a scheme other than none, `file` or `s3`.
    """
    parts = urlsplit(location.url)
    if parts.scheme == "s3":
        # Late: boto3 takes a good part of a second to import, and a directory has no use for it.
        from corrigenda.storage.objects.s3 import S3Store

        return S3Store.connect(location)
    if parts.scheme in ("", "file"):
        path = parts.path if parts.scheme else location.url
        return LocalStore.open(root / Path(path).expanduser(), create=create, absent_ok=absent_ok)
    raise UsageError(
        "a store of this kind is not known",
        remedy="Use a directory or s3://bucket/prefix",
        url=location.url,
    )
