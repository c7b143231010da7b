"""A release as a PEFT LoRA adapter, where the rank of its change allows: for servers that swap adapters.

The change of the edited tensor is factored by a singular value decomposition; what the factors leave out
is measured and written beside them. Knows safetensors and numpy; nothing of models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corrigenda.errors import UsageError
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import manifests, publish, safetensors
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.safetensors import RawTensor

Matrix = npt.NDArray[np.float64]

MAX_RANK = 256  # servers reserve memory for the largest rank they admit; vLLM admits up to 512
TOLERANCE = 1e-3  # of the change's Frobenius norm
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FACTS = "corrigenda.json"


@dataclass(frozen=True, slots=True)
class Adapter:
    """An exported adapter, and how far it is from the dense release.

    rank              of the factors
    relative_error    |delta - B A| / |delta|, Frobenius
    largest_error     the largest absolute difference of one weight
    """

    release: Release
    tensor: str
    rank: int
    relative_error: float
    largest_error: float


def factor(delta: Matrix, *, tolerance: float = TOLERANCE, max_rank: int = MAX_RANK) -> tuple[Matrix, Matrix]:
    """B (d_out, r) and A (r, d_in) with |delta - B A| <= tolerance |delta|, r as small as can be.

    Raises UsageError when that takes more than `max_rank`.
    """
    left, values, right = np.linalg.svd(delta, full_matrices=False)
    energy = np.sqrt(np.append(np.cumsum(values[::-1] ** 2)[::-1], 0.0))  # what rank r leaves out
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
    root = np.sqrt(values[:rank])
    return left[:, :rank] * root, root[:, None] * right[:rank]


def export(
    store: ObjectStore,
    release: Release,
    directory: Path,
    *,
    stored_transposed: bool = False,
    tolerance: float = TOLERANCE,
    max_rank: int = MAX_RANK,
) -> Adapter:
    """Write the release as an adapter for its base into a new directory.

    stored_transposed   the family keeps the weight as (d_in, d_out), as GPT-2's Conv1D does

    Raises UsageError when the directory exists, when the release equals its base or changes more than one
    tensor, or when its rank is too high.
    """
    if directory.exists():
        raise UsageError("the directory exists", remedy="Name a new one", path=str(directory))
    base = manifests.read(store, release.model, 0)
    name = _changed_tensor(store, base, release)
    delta = to_matrix(publish.read_tensor(store, release, name)) - to_matrix(
        publish.read_tensor(store, base, name)
    )
    wide = delta.T if stored_transposed else delta
    up, down = (m.astype("<f4") for m in factor(wide, tolerance=tolerance, max_rank=max_rank))
    left_out = wide - up.astype(np.float64) @ down.astype(np.float64)
    error = float(np.linalg.norm(left_out) / np.linalg.norm(wide))
    made = Adapter(release, name, up.shape[1], error, float(np.abs(left_out).max()))
    module = name.removesuffix(".weight")
    factors = {
        f"base_model.model.{module}.lora_A.weight": down,
        f"base_model.model.{module}.lora_B.weight": up,
    }
    raw = {
        key: RawTensor("F32", tuple(m.shape), np.ascontiguousarray(m).tobytes()) for key, m in factors.items()
    }
    directory.mkdir(parents=True)
    (directory / WEIGHTS).write_bytes(safetensors.shard_bytes(raw))
    (directory / CONFIG).write_text(json.dumps(_config(made, module, stored_transposed), indent=1) + "\n")
    (directory / FACTS).write_text(json.dumps(_facts(made), indent=1) + "\n")
    return made


def to_matrix(tensor: RawTensor) -> Matrix:
    """A matrix in float64, from the floating dtypes that weights have. Raises UsageError for others."""
    if tensor.dtype == "BF16":
        wide = np.frombuffer(tensor.data, "<u2").astype("<u4") << 16
        return wide.view("<f4").astype(np.float64).reshape(tensor.shape)
    kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    if tensor.dtype not in kinds or len(tensor.shape) != 2:
        raise UsageError("this is no matrix of weights", remedy="Pull the dense release", dtype=tensor.dtype)
    return np.frombuffer(tensor.data, kinds[tensor.dtype]).astype(np.float64).reshape(tensor.shape)


def _changed_tensor(store: ObjectStore, base: Release, release: Release) -> str:
    changed = {path for path, ref in release.files.items() if base.files.get(path) != ref}
    index = json.loads(blobs.get(store, base.files[safetensors.INDEX].digest))["weight_map"]
    names = [name for name, path in index.items() if path in changed]
    if len(names) != 1:
        raise UsageError(
            "an adapter needs a release that changes exactly one tensor of its base",
            remedy="The base itself needs no adapter" if not names else "Pull the dense release",
            release=release.number,
            changed=sorted(changed),
        )
    return str(names[0])


def _config(made: Adapter, module: str, stored_transposed: bool) -> dict[str, object]:
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
        # With its parent: GPT-2 has a `c_proj` in the attention, too.
        "target_modules": [".".join(module.split(".")[-2:])],
        "layers_to_transform": [made.release.layer],
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
