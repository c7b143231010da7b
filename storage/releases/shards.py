"""Cutting a Hugging Face directory into the files of release 0: each editable tensor gets its own shard.

Streams byte ranges from the directory into the store; knows nothing of releases or refs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from corrigenda.facts import digest_of
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import safetensors
from corrigenda.storage.releases.manifests import LAID_OUT, SIGNATURE
from corrigenda.storage.releases.safetensors import TensorSlice

SHARD_BYTES = 2 << 30  # of the tensors that are never edited
# Of the directory that is registered, when it was a release of somebody's; they would speak of other files.
_FOREIGN = frozenset({LAID_OUT, SIGNATURE})
# Weights in other formats would be stale beside an edited shard, and loaders might prefer them.
_OTHER_WEIGHTS = frozenset({".bin", ".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".pth", ".pt", ".ckpt"})
_TOKENIZER_FILES = frozenset({
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja",
})  # fmt: skip


def plan(found: Mapping[str, TensorSlice], alone: Sequence[str], limit: int) -> list[list[TensorSlice]]:
    """Which tensors go together: the others by name up to `limit` bytes, then each editable one by itself."""
    shards: list[list[TensorSlice]] = []
    size = limit
    for name in sorted(found.keys() - set(alone)):
        if not shards or size + found[name].size > limit:
            shards.append([])
            size = 0
        shards[-1].append(found[name])
        size += found[name].size
    return shards + [[found[name]] for name in alone]


def put_shards(
    store: ObjectStore, shards: Sequence[Sequence[TensorSlice]], found: Mapping[str, TensorSlice]
) -> tuple[dict[str, BlobRef], dict[str, str]]:
    """Send the shards and their index; returns the files and the digest of every tensor."""
    files: dict[str, BlobRef] = {}
    digests: dict[str, str] = {}
    weight_map: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="corrigenda-") as scratch:
        for number, shard in enumerate(shards, start=1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            path = Path(scratch) / name
            digests |= safetensors.write_shard(path, shard)
            files[name] = blobs.put_file(store, path)
            weight_map |= {tensor.name: name for tensor in shard}
            path.unlink()
    total = sum(tensor.size for tensor in found.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    files[safetensors.INDEX] = blobs.put(store, json.dumps(index, indent=2).encode() + b"\n")
    return files, digests


def other_files(directory: Path) -> Iterator[Path]:
    """Configuration, tokenizer, templates, licence: all files that a release takes over as they are."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and is_other(PurePosixPath(path.relative_to(directory))):
            yield path


def is_weights(path: PurePosixPath) -> bool:
    """Whether a checkpoint's file, by its path, holds weights that are read here, or says where they are."""
    return path.suffix == ".safetensors" or path.name == safetensors.INDEX


def is_other(path: PurePosixPath) -> bool:
    """Whether a file is taken over as it is: no weights of any format, no signature, nothing hidden."""
    hidden = any(part.startswith(".") for part in path.parts)
    weights = path.suffix in {".safetensors", *_OTHER_WEIGHTS} or path.name.endswith(".index.json")
    return not hidden and not weights and path.name not in _FOREIGN


def tokenizer_digest(files: Mapping[str, BlobRef]) -> str:
    """Names a tokenizer by all files that can change what it does."""
    return digest_of({path: ref.digest for path, ref in files.items() if path in _TOKENIZER_FILES})
