"""A release as a PEFT LoRA adapter, where the rank of its change allows: for servers that swap adapters.

The change of each edited tensor is factored by a singular value decomposition, all of them at one rank; what
the factors leave out is measured and written beside them. Knows safetensors and numpy; nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corrigenda.errors import UsageError
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.keys import NOBODY, Keyring
from corrigenda.storage.releases import manifests, publish, safetensors, signatures
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.safetensors import RawTensor

Matrix = npt.NDArray[np.float64]
Half = npt.NDArray[np.float32]

MAX_RANK = 256  # servers reserve memory for the largest rank they admit; vLLM admits up to 512
TOLERANCE = 1e-3  # of the change's Frobenius norm
_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
FACTS = "corrigenda.json"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An exported adapter, and how far it is from the dense release.

    tensors           names of the tensors that the release changes
    rank              of the factors
    relative_error    |delta - B A| / |delta|, Frobenius, over all tensors together
    largest_error     the largest absolute difference of one weight
    """

    release: Release
    tensors: tuple[str, ...]
    rank: int
    relative_error: float
    largest_error: float


def factor(
    deltas: Sequence[Matrix], *, tolerance: float = TOLERANCE, max_rank: int = MAX_RANK
) -> list[tuple[Matrix, Matrix]]:
    """For each change B (d_out, r) and A (r, d_in) with |delta - B A| <= tolerance |delta|, both norms over
    all changes together; r is one for all, for servers know one rank, and as small as can be.

    Raises UsageError when that takes more than `max_rank`.
    """
    parts = [np.linalg.svd(delta, full_matrices=False) for delta in deltas]
    longest = max(len(values) for _, values, _ in parts)
    left_out = np.zeros(longest + 1)  # the squares that rank r leaves out
    for _, values, _ in parts:
        left_out[: len(values)] += np.cumsum(values[::-1] ** 2)[::-1]
    energy = np.sqrt(left_out)
    rank = max(1, int(np.argmax(energy <= tolerance * energy[0])))
    if rank > max_rank:
        raise UsageError(
            "the release's change has too high a rank for an adapter",
            remedy="Pull the dense release, or allow a higher rank or tolerance",
            rank=rank,
            max_rank=max_rank,
            relative_error_at_max_rank=round(float(energy[max_rank] / energy[0]), 4),
        )
    # The square root on both sides keeps the factors' magnitudes alike, which half precision likes.
    return [_halves(left[:, :rank], values[:rank], right[:rank], rank) for left, values, right in parts]


def _halves(left: Matrix, values: Matrix, right: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """Both factors, filled up with zeros where a matrix has no such rank."""
    root, missing = np.sqrt(values), rank - len(values)
    return np.pad(left * root, ((0, 0), (0, missing))), np.pad(root[:, None] * right, ((0, missing), (0, 0)))


def export(
    store: ObjectStore,
    release: Release,
    directory: Path,
    *,
    stored_transposed: bool = False,
    tolerance: float = TOLERANCE,
    max_rank: int = MAX_RANK,
    keys: Keyring = NOBODY,
) -> Adapter:
    """Write the release as an adapter for its base into a new directory.

    stored_transposed   the family keeps the weight as (d_in, d_out), as GPT-2's Conv1D does

    keys                where there are some, one of them must have signed the base that is subtracted

    Raises SignatureError; UsageError when the directory exists, when the release equals its base, or when its
    rank is too high.
    """
    if directory.exists():
        raise UsageError("the directory exists", remedy="Name a new one", path=str(directory))
    base = manifests.read(store, release.model, 0)
    if keys.checks:
        signatures.require(store, base, keys)
    names = _changed_tensors(store, base, release)
    changes = [_change(store, base, release, name, stored_transposed) for name in names]
    each = factor(changes, tolerance=tolerance, max_rank=max_rank)
    factors = [(up.astype("<f4"), down.astype("<f4")) for up, down in each]
    made = _told(release, names, changes, factors)
    directory.mkdir(parents=True)
    (directory / _WEIGHTS).write_bytes(safetensors.shard_bytes(_tensors(names, factors)))
    (directory / _CONFIG).write_text(json.dumps(_config(made, stored_transposed), indent=1) + "\n")
    (directory / FACTS).write_text(json.dumps(_facts(made), indent=1) + "\n")
    return made


def _change(store: ObjectStore, base: Release, release: Release, name: str, transposed: bool) -> Matrix:
    """What the release adds to a tensor (d_out, d_in), in float64."""
    new, old = (to_matrix(publish.read_tensor(store, one, name)) for one in (release, base))
    return (new - old).T if transposed else new - old


def _told(
    release: Release, names: Sequence[str], changes: Sequence[Matrix], factors: Sequence[tuple[Half, Half]]
) -> Adapter:
    """The adapter and how far it is from the changes."""
    each = zip(changes, factors, strict=True)
    left_out = [change - up.astype(np.float64) @ down.astype(np.float64) for change, (up, down) in each]
    missed, all_of_it = (np.sqrt(sum(float(np.sum(m**2)) for m in some)) for some in (left_out, changes))
    largest = max(float(np.abs(m).max()) for m in left_out)
    return Adapter(release, tuple(names), factors[0][0].shape[1], float(missed / all_of_it), largest)


def _tensors(names: Sequence[str], factors: Sequence[tuple[Half, Half]]) -> dict[str, RawTensor]:
    """The adapter's tensors as PEFT calls them."""
    raw = {}
    for name, (up, down) in zip(names, factors, strict=True):
        for letter, matrix in (("A", down), ("B", up)):
            key = f"base_model.model.{name.removesuffix('.weight')}.lora_{letter}.weight"
            raw[key] = RawTensor("F32", tuple(matrix.shape), np.ascontiguousarray(matrix).tobytes())
    return raw


def to_matrix(tensor: RawTensor) -> Matrix:
    """A matrix in float64, from the floating dtypes that weights have. Raises UsageError for others."""
    if tensor.dtype == "BF16":
        wide = np.frombuffer(tensor.data, "<u2").astype("<u4") << 16
        return wide.view("<f4").astype(np.float64).reshape(tensor.shape)
    kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    if tensor.dtype not in kinds or len(tensor.shape) != 2:
        raise UsageError("this is no matrix of weights", remedy="Pull the dense release", dtype=tensor.dtype)
    return np.frombuffer(tensor.data, kinds[tensor.dtype]).astype(np.float64).reshape(tensor.shape)


def _changed_tensors(store: ObjectStore, base: Release, release: Release) -> list[str]:
    changed = {path for path, ref in release.files.items() if base.files.get(path) != ref}
    index = safetensors.weight_map_of(blobs.get(store, base.files[safetensors.INDEX].digest))
    names = sorted((name for name, path in index.items() if path in changed), key=_layer_of)
    if not names:
        raise UsageError(
            "the release changes no tensor of its base",
            remedy="The base itself needs no adapter",
            release=release.number,
        )
    return names


def _layer_of(name: str) -> int:
    """The number of the layer that a tensor belongs to, as its name says."""
    return next(int(part) for part in name.split(".") if part.isdigit())


def _config(made: Adapter, stored_transposed: bool) -> dict[str, object]:
    # With its parent: GPT-2 has a `c_proj` in the attention, too.
    modules = {".".join(name.removesuffix(".weight").split(".")[-2:]) for name in made.tensors}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": made.release.base.get("source"),
        "r": made.rank,
        "lora_alpha": made.rank,  # a scale of one
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": stored_transposed,
        "inference_mode": True,
        "target_modules": sorted(modules),
        "layers_to_transform": [_layer_of(name) for name in made.tensors],
    }


def _facts(made: Adapter) -> dict[str, object]:
    """Which release this is, and how far from it. PEFT's own file must not hold unknown keys."""
    return {
        "model": made.release.model,
        "release": made.release.number,
        "manifest": made.release.digest,
        "relative_error": made.relative_error,
        "largest_error": made.largest_error,
    }
