"""Cutting a Hugging Face directory into the files of release 0: each editable tensor gets its own shard.

Streams byte ranges from the directory into the store; knows nothing of releases or refs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from corrigenda.errors import UsageError
from corrigenda.facts import digest_of
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.scratch import scratch_folder
from corrigenda.storage.releases import safetensors
from corrigenda.storage.releases.manifests import LAID_OUT, SIGNATURE
from corrigenda.storage.releases.safetensors import TensorSlice

SHARD_BYTES = 2 << 30  # of the tensors that are never edited
# Of the directory that is registered, when it was a release of somebody's; they would speak of other files.
_FOREIGN = frozenset({LAID_OUT, SIGNATURE})
# Configuration, tokenizers, templates, a model's own code, papers. What is not among them stays where it is.
_KINDS = frozenset({
    ".json", ".jinja", ".txt", ".model", ".tiktoken", ".vocab", ".bpe", ".spm", ".py", ".md", ".rst", ".yaml",
    ".yml",
})  # fmt: skip
_PAPERS = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY", "README", "AUTHORS", "CITATION")
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
    with scratch_folder() as scratch:
        for number, shard in enumerate(shards, start=1):
            name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            path = scratch / name
            digests |= safetensors.write_shard(path, shard)
            files[name] = blobs.put_file(store, path)
            weight_map |= {tensor.name: name for tensor in shard}
            path.unlink()
    total = sum(tensor.size for tensor in found.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    files[safetensors.INDEX] = blobs.put(store, json.dumps(index, indent=2).encode() + b"\n")
    return files, digests


def other_files(directory: Path) -> Iterator[Path]:
    """Configuration, tokenizer, templates, licence: all files that a release takes over as they are.

    Raises UsageError for a link that leads out of the directory: what is behind it would be published.
    """
    for path in sorted(directory.rglob("*")):
        if path.is_file() and is_other(PurePosixPath(path.relative_to(directory))):
            require_inside(directory, path)
            yield path


def require_inside(directory: Path, path: Path) -> None:
    """Raises UsageError when a file of a model's directory lies elsewhere. A hub's cache links to its own."""
    home = directory.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    real = path.resolve()
    if not any(real.is_relative_to(one) for one in homes):
        raise UsageError(
            "a file of the model's directory is a link that leads out of it",
            remedy="Put a copy of the file in its place, or remove the link",
            file=str(path),
            leads_to=str(real),
        )


def is_weights(path: PurePosixPath) -> bool:
    """Whether a checkpoint's file, by its path, holds weights that are read here, or says where they are."""
    return path.suffix == ".safetensors" or path.name == safetensors.INDEX


def is_other(path: PurePosixPath) -> bool:
    """Whether a file is taken over as it is: of a kind that belongs to a model, and nothing hidden.

    No weights, which would be stale beside an edited shard; no signature, which would speak of other files.
    """
    hidden = any(part.startswith(".") for part in path.parts)
    known = path.suffix.lower() in _KINDS or path.name.upper().startswith(_PAPERS)
    return known and not hidden and not path.name.endswith(".index.json") and path.name not in _FOREIGN


def tokenizer_digest(files: Mapping[str, BlobRef]) -> str:
    """Names a tokenizer by all files that can change what it does."""
    return digest_of({path: ref.digest for path, ref in files.items() if path in _TOKENIZER_FILES})
