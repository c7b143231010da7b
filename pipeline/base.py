"""A model's base, loaded for a night: the one value that every heavy stage works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from corrigenda.config import Defaults
from corrigenda.editing import versions
from corrigenda.editing.background import corpus
from corrigenda.facts import digest_of
from corrigenda.models import loading
from corrigenda.models.language_model import LanguageModel
from corrigenda.pipeline.night import Night
from corrigenda.pipeline.progress import bar
from corrigenda.pipeline.register import asked_of, said_of_the_family
from corrigenda.settings import Corpus
from corrigenda.storage.delivery import pull
from corrigenda.storage.objects.cache import Cache
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases.manifests import Release


@dataclass(frozen=True, slots=True)
class Base:
    """What a night edits, and never writes to.

    release   number 0, as it was registered
    model     its network, on the night's device and in the night's precision
    """

    night: Night
    release: Release
    model: LanguageModel

    @property
    def settings(self) -> Defaults:
        return self.night.settings

    @property
    def store(self) -> ObjectStore:
        return self.night.store

    @property
    def cache(self) -> Cache:
        return self.night.cache

    @property
    def identity(self) -> dict[str, Any]:
        return identity(self.night, self.release)

    def text(self, asked: Corpus, what: str) -> Tensor:
        """Token rows of a corpus (rows, length), cached or fresh, under a bar that says `what`."""
        key = digest_of([versions.CORPUS, self.identity, corpus_identity(self.night, asked)])
        body = self.cache.lookup("corpora", key)
        if body is None:
            with bar(what, asked.tokens) as advance:
                root = self.night.fleet.config.root
                tokens = corpus.background_tokens(self.model, asked, root=root, advance=advance)
            body = save_tensors({"tokens": tokens.to(torch.int32)}, {"format": "pt"})
            self.cache.remember("corpora", key, body)
        stored: Tensor = load_tensors(body)["tokens"]
        return stored.long()


def load_base(night: Night, release: Release) -> Base:
    """The base as the store holds it, verified, on the device that the fleet asks for."""
    place = night.workplace / "base"
    pull.materialise(night.store, release, place, night.blob_cache)
    return Base(night, release, loading.load(place, **asked_of(night)))


def identity(night: Night, release: Release) -> dict[str, Any]:
    """What a base is, whatever it is called: the digests of its weights, as they are computed with, and of
    its tokenizer. In another precision than float32, or edited elsewhere, all that is measured is other."""
    weights = release.base["weights_digest"]
    precision = loading.precision(night.settings.device, night.settings.dtype)
    apart = [how for how in (precision, said_of_the_family(night)) if how and how != "float32"]
    named = f"{weights}:{digest_of(apart)[:16]}" if apart else weights
    return {"weights_digest": named, "tokenizer_digest": release.base["tokenizer_digest"]}


def corpus_identity(night: Night, text: Corpus) -> list[Any]:
    """Settings of a corpus and, for a local file, what identifies its content."""
    path = night.fleet.config.root / Path(text.source).expanduser()
    content = digest_of([path.stat().st_size, path.stat().st_mtime_ns]) if path.is_file() else None
    return [text.model_dump(), content]
