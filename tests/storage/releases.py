"""A small checkpoint and its releases, for tests that need something to publish."""

from __future__ import annotations

import json
from pathlib import Path

from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import publish, refs, safetensors
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.publish import Candidate
from corrigenda.storage.releases.safetensors import RawTensor

MODEL = "tiny"
LAYERS = 3
EDITABLE = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(LAYERS)]


def raw(seed: int, shape: tuple[int, ...] = (8, 16), dtype: str = "F32") -> RawTensor:
    """A tensor whose bytes depend on `seed` alone."""
    size = {"F32": 4, "BF16": 2, "F16": 2}[dtype]
    for n in shape:
        size *= n
    return RawTensor(dtype, shape, bytes((seed * 31 + i * 7 + i // 251) % 251 for i in range(size)))


def checkpoint(seed: int = 0, shape: tuple[int, ...] = (8, 16), dtype: str = "F32") -> dict[str, RawTensor]:
    """All tensors of a small model: embedding, and per layer an attention and an MLP projection."""
    found = {"model.embed_tokens.weight": raw(seed, (32, 8), dtype)}
    for layer in range(LAYERS):
        found[f"model.layers.{layer}.self_attn.o_proj.weight"] = raw(seed + layer + 1, shape, dtype)
        found[EDITABLE[layer]] = raw(seed + layer + 50, shape, dtype)
    return found


def save(directory: Path, found: dict[str, RawTensor], shards: int = 1) -> Path:
    """A Hugging Face directory with these weights, in one file or in several with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text('{"model_type": "llama"}')
    (directory / "tokenizer.json").write_text('{"version": "1.0"}')
    (directory / "templates").mkdir(exist_ok=True)
    (directory / "templates" / "chat.jinja").write_text("{{ messages }}")
    if shards == 1:
        (directory / safetensors.SINGLE).write_bytes(safetensors.shard_bytes(found))
        return directory
    weight_map = {}
    for number in range(shards):
        part = dict(list(found.items())[number::shards])
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        (directory / name).write_bytes(safetensors.shard_bytes(part))
        weight_map |= dict.fromkeys(part, name)
    (directory / safetensors.INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def register(store: ObjectStore, directory: Path, model: str = MODEL) -> Release:
    return publish.register_base(store, model, directory, source="test", editable=EDITABLE)


def stage(
    store: ObjectStore,
    base: Release,
    replaced: dict[str, RawTensor],
    candidate: Candidate | None = None,
    *,
    parent: Release,
) -> Release:
    """Store the shards of the replaced tensors, and the candidate that has them."""
    files = publish.replaced_files(store, base, replaced)
    return publish.stage(store, base, files, candidate or Candidate(), parent=parent)


def release(store: ObjectStore, base: Release, seed: int, layer: int = 1, shape=(8, 16)) -> Release:
    """Stage and promote a release that replaces one tensor."""
    seen = refs.read(store, base.model, "latest")
    head = publish.manifests.by_digest(store, seen.ref.manifest)
    candidate = Candidate(layer=layer, settings={"seed": seed})
    staged = stage(store, base, {EDITABLE[layer]: raw(seed, shape)}, candidate, parent=head)
    publish.promote(store, staged, seen=seen)
    return staged
