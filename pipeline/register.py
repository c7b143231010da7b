"""A model's first step into the store: its base is fetched, re-sharded and published as release 0."""

from __future__ import annotations

import json
from pathlib import Path

from corrigenda.config import Location
from corrigenda.errors import SetupError
from corrigenda.models import sources
from corrigenda.models.families import family_of
from corrigenda.pipeline.night import Night
from corrigenda.pipeline.progress import bar
from corrigenda.storage.delivery import buckets
from corrigenda.storage.releases import manifests, publish, refs, signatures
from corrigenda.storage.releases.manifests import Release


def register(night: Night) -> Release:
    """Release 0 of the model; its base is fetched and stored on the first night only.

    Where releases are signed, this one is, too. Raises SetupError for a key that cannot be used: now, and
    not when the night's work is done.
    """
    if refs.read(night.store, night.name, "latest").ref is not None:
        base = manifests.read(night.store, night.name, 0)
        _sign(night, base)
        return base
    if night.signer:
        night.signer.public_pem()
    directory = local_directory(night)
    return publish.register_base(
        night.store,
        night.name,
        directory,
        source=night.entry.source,
        editable=editable_tensors(directory),
        prepare=lambda base: _sign(night, base),
    )


def local_directory(night: Night) -> Path:
    """The Hugging Face directory that the model's `source` stands for, fetched if need be."""
    source, fleet = night.entry.source, night.fleet.config
    if not source.startswith("s3://"):
        return sources.resolve(source, root=fleet.root)
    # A store in S3 says how that server is reached; without one, boto3's own surroundings do.
    in_s3 = fleet.store.url.startswith("s3://")
    location = fleet.store.model_copy(update={"url": source}) if in_s3 else Location(url=source)
    with bar("base", 0) as advance:
        return buckets.fetch(location, sources.cache_home() / "origins", advance)


def editable_tensors(directory: Path) -> list[str]:
    """Names of the tensors that an edit may replace, from the configuration alone."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    family = family_of(str(config.get("model_type")))
    inner = config.get("text_config", config)
    count = inner.get("num_hidden_layers", inner.get("n_layer"))
    if not isinstance(count, int):
        raise SetupError(
            "the configuration does not say how many layers there are",
            remedy="Check config.json",
            directory=str(directory),
        )
    return [family.weight_name(layer) for layer in range(count)]


def _sign(night: Night, base: Release) -> None:
    if night.signer:
        signatures.keep(night.store, base, night.signer)
