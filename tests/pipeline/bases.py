"""Registered bases that are names alone: for what depends on their digests."""

from __future__ import annotations

from dataclasses import replace

from corrigenda.storage.releases.manifests import Release

BASE = Release(
    model="tiny",
    number=0,
    files={},
    created_at="2026-11-01T00:00:00+00:00",
    base={"weights_digest": "w", "tokenizer_digest": "t"},
)


def of_base(**change):
    return replace(BASE, base={**BASE.base, **change})
