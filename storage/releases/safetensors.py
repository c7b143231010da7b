"""The safetensors format, by byte ranges: no torch, and never a whole checkpoint in memory.

Tensors are bytes with a dtype and a shape here; nothing is computed with them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from corrigenda.errors import CorruptBlobError, NotFoundError, UsageError
from corrigenda.facts import digest_of
from corrigenda.stored import UnreadableError, object_of

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_CHUNK = 8 << 20  # bytes copied at a time
_HEADER_LIMIT = 100_000_000  # bytes; the reference implementation's own limit

# Bits per element, in the order in which the reference implementation lays tensors out (reversed).
_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
_ORDER = {dtype: rank for rank, dtype in enumerate(_BITS)}


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor as bytes: dtype in safetensors' spelling (`BF16`), little-endian, row-major."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """Where a tensor lies: bytes `start` to `stop` of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def chunks(self) -> Iterator[bytes]:
        """The tensor's bytes, at most _CHUNK at a time."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            left = self.size
            while left:
                chunk = file.read(min(_CHUNK, left))
                if not chunk:
                    raise _damaged(self.path, "it ends before its last tensor")
                left -= len(chunk)
                yield chunk

    def read(self) -> RawTensor:
        return RawTensor(self.dtype, self.shape, b"".join(self.chunks()))


def read_header(path: Path) -> dict[str, TensorSlice]:
    """The tensors of one file, by name. Raises CorruptBlobError when it is no whole safetensors file."""
    with path.open("rb") as file:
        return parse_header(file, path)


def parse_header(file: BinaryIO, path: Path) -> dict[str, TensorSlice]:
    """`read_header` of an open file."""
    size = path.stat().st_size
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(_HEADER_LIMIT, size - 8):
            raise ValueError("its header is longer than the file")
        plain = object_of(file.read(length))
        plain.pop("__metadata__", None)
        slices = [_slice(name, entry, path, 8 + length) for name, entry in plain.items()]
        _check_layout(slices, 8 + length, size)
    except (ValueError, TypeError, KeyError, AttributeError, struct.error) as fault:
        raise _damaged(path, str(fault)) from None
    return {found.name: found for found in slices}


def read_checkpoint(directory: Path) -> dict[str, TensorSlice]:
    """All tensors of a Hugging Face directory, sharded or not; an index decides where there is one.

    Raises NotFoundError when there are no safetensors weights, CorruptBlobError when one is damaged.
    """
    shards = _shards(directory)
    found: dict[str, TensorSlice] = {}
    for path, wanted in sorted(shards.items()):
        if not path.is_file():
            raise NotFoundError(
                "a shard of the checkpoint is missing", remedy="Fetch the checkpoint again", path=str(path)
            )
        header = read_header(path)
        for name in header if wanted is None else wanted:
            if name not in header:
                raise _damaged(path, f"the index says that it holds {name}")
            found[name] = header[name]
    return found


def write_shard(path: Path, tensors: Iterable[TensorSlice]) -> dict[str, str]:
    """Write tensors to a new file, streaming; returns the digest of each tensor's bytes.

    Byte for byte what the reference implementation writes with the metadata {"format": "pt"}; more
    metadata would not be reproducible there.
    """
    ordered = sorted(tensors, key=_rank)
    digests = {}
    with path.open("wb") as file:
        file.write(_header((t.name, t.dtype, t.shape, t.size) for t in ordered))
        for tensor in ordered:
            digest = hashlib.sha256()
            for chunk in tensor.chunks():
                digest.update(chunk)
                file.write(chunk)
            digests[tensor.name] = digest.hexdigest()
    return digests


def shard_bytes(tensors: Mapping[str, RawTensor]) -> bytes:
    """One shard of tensors in memory, as `write_shard` writes it. Raises UsageError for a wrong size."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _BITS or tensor.size * 8 != prod(tensor.shape) * _BITS[tensor.dtype]:
            raise UsageError(
                "a tensor's bytes do not fit its dtype and shape",
                remedy="Pass contiguous little-endian bytes",
                tensor=name,
                dtype=tensor.dtype,
                shape=tensor.shape,
                size=tensor.size,
            )
    ordered = sorted(tensors.items(), key=lambda item: (-_ORDER[item[1].dtype], item[0]))
    head = _header((name, t.dtype, t.shape, t.size) for name, t in ordered)
    return head + b"".join(tensor.data for _, tensor in ordered)


def weights_digest(digests: Mapping[str, str], tensors: Mapping[str, TensorSlice]) -> str:
    """Names a checkpoint's weights, however they are sharded: each tensor's name, dtype, shape, bytes."""
    return digest_of(
        {name: [tensors[name].dtype, list(tensors[name].shape), digest] for name, digest in digests.items()}
    )


def resolve(names: Iterable[str], wanted: str) -> str:
    """The checkpoint's name of a tensor that a model calls `wanted`.

    Checkpoints of the bare model (GPT-2's) leave the head's prefix out, those of models that see put another
    one before the language tower: the name with the longest end in common is meant, if there is just one.
    Raises NotFoundError.
    """
    known = set(names)
    tail = wanted
    while tail:
        alike = [tail] if tail in known else [name for name in known if name.endswith(f".{tail}")]
        if len(alike) == 1:
            return alike[0]
        tail = tail.partition(".")[2]
    raise NotFoundError(
        "the checkpoint has no such tensor",
        remedy="Check `family` in the model's entry against the checkpoint",
        tensor=wanted,
        tensors=sorted(known)[:5],
    )


def weight_map_of(body: bytes, path: Path = Path(INDEX)) -> dict[str, str]:
    """An index's tensors by name, each with its file. Raises CorruptBlobError."""
    try:
        found: dict[str, str] = object_of(body, weight_map=dict)["weight_map"]
        if not all(isinstance(where, str) for where in found.values()):
            raise UnreadableError("a file's name is no text")
    except (UnreadableError, KeyError):
        raise _damaged(path, "it is no index of a checkpoint") from None
    return found


def _shards(directory: Path) -> dict[Path, list[str] | None]:
    index = directory / INDEX
    if index.is_file():
        weight_map = weight_map_of(index.read_bytes(), index)
        files = sorted(set(weight_map.values()))
        return {directory / f: [name for name, where in weight_map.items() if where == f] for f in files}
    found = sorted(directory.glob("*.safetensors"))
    chosen = [path for path in found if path.name == SINGLE] or found
    if len(chosen) != 1:
        raise NotFoundError(
            "the directory holds no safetensors checkpoint",
            remedy=f"Save the model with safe_serialization, as {SINGLE} or as shards with {INDEX}",
            directory=str(directory),
            found=[path.name for path in found],
        )
    return {chosen[0]: None}


def _slice(name: str, entry: Mapping[str, Any], path: Path, offset: int) -> TensorSlice:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    start, stop = entry["data_offsets"]
    if dtype not in _BITS or not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
        raise ValueError(f"the entry of {name} is wrong")
    if (stop - start) * 8 != prod(shape) * _BITS[dtype]:
        raise ValueError(f"the size of {name} does not fit its shape")
    return TensorSlice(name, dtype, shape, path, offset + start, offset + stop)


def _check_layout(slices: Iterable[TensorSlice], start: int, stop: int) -> None:
    for found in sorted(slices, key=lambda s: (s.start, s.stop)):
        if found.start != start:
            raise ValueError(f"there is a gap or an overlap before {found.name}")
        start = found.stop
    if start != stop:
        raise ValueError("the file does not end where its last tensor does")


def _rank(tensor: TensorSlice) -> tuple[int, str]:
    return -_ORDER[tensor.dtype], tensor.name


def _header(entries: Iterable[tuple[str, str, tuple[int, ...], int]]) -> bytes:
    plain: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, dtype, shape, size in entries:
        plain[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + size]}
        start += size
    body = json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()
    body += b" " * (-len(body) % 8)
    return struct.pack("<Q", len(body)) + body


def _damaged(path: Path, why: str) -> CorruptBlobError:
    return CorruptBlobError(f"a safetensors file is damaged: {why}", remedy="Fetch it again", path=str(path))
