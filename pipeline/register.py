"""A model's first step into the store: its base is fetched, re-sharded and published as release 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corrigenda.config import Location
from corrigenda.errors import SignatureError
from corrigenda.models import sources
from corrigenda.pipeline.night import Night
from corrigenda.pipeline.progress import bar
from corrigenda.storage.releases import manifests, publish, refs, signatures
from corrigenda.storage.releases.manifests import Release


def register(night: Night) -> Release:
    """Release 0 of the model; its base is fetched and stored on the first night only.

    Where releases are signed, this one is, too, and one that is there already must be. Raises SignatureError
    when it is not; SetupError for a key that cannot be used: now, and not when the night's work is done.
    """
    night.keys.require_signers()
    if refs.read(night.store, night.name, "latest").ref is not None:
        base = manifests.read(night.store, night.name, 0)
        _require_signed(night, base)
        return base
    from corrigenda.models import loading  # torch and transformers come with it

    directory = local_directory(night)
    # Release 0 is for ever: whatever can be wrong with a base is found before a byte of it is stored.
    editable = loading.load(directory, **asked_of(night)).editable
    return publish.register_base(
        night.store,
        night.name,
        directory,
        source=night.entry.source,
        editable=editable,
        keys=night.keys,
    )


def local_directory(night: Night) -> Path:
    """The Hugging Face directory that the model's `source` stands for, fetched if need be."""
    source, fleet = night.entry.source, night.fleet.config
    if not source.startswith("s3://"):
        return sources.resolve(source, root=fleet.root)
    # Late: boto3 takes a good part of a second to import, and most nights have no use for it.
    from corrigenda.storage.delivery import buckets

    # A store in S3 says how that server is reached; without one, boto3's own surroundings do.
    in_s3 = fleet.store.url.startswith("s3://")
    location = fleet.store.model_copy(update={"url": source}) if in_s3 else Location(url=source)
    with bar("base", 0) as advance:
        return buckets.fetch(location, sources.cache_home() / "origins", advance)


def asked_of(night: Night) -> dict[str, Any]:
    """How the model is to be loaded, by the arguments of `loading.load`."""
    settings = night.settings
    return {"device": settings.device, "dtype": settings.dtype, "family": said_of_the_family(night)}


def said_of_the_family(night: Night) -> dict[str, Any]:
    """What the model's entry says of its architecture."""
    return night.entry.family.model_dump(exclude_none=True)


def _require_signed(night: Night, base: Release) -> None:
    """Nothing is built on a base that others may have written."""
    try:
        if night.keys.checks:
            signatures.require(night.store, base, night.keys)
    except SignatureError as fault:
        raise SignatureError(
            "the model's base is not signed with this fleet's keys",
            remedy="A run signs only what it made itself. If what `corrigenda log MODEL` shows is yours, run "
            f"`corrigenda sign {night.name}` once",
            model=night.name,
            why=fault.what,
        ) from None
