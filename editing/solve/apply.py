"""From a float64 update to the bytes of the published tensor: one rounding, in the base's own dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from corrigenda.errors import EditError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}


def tensor_of(data: bytes, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """A stored tensor (safetensors' dtype names). Raises EditError for a dtype that cannot be edited."""
    if dtype not in DTYPES:
        raise EditError(
            "weights of this dtype cannot be edited",
            remedy="Register a base in 16-bit or 32-bit floating point; dequantise it first",
            dtype=dtype,
        )
    return torch.frombuffer(bytearray(data), dtype=DTYPES[dtype]).reshape(shape)


def bytes_of(tensor: Tensor) -> bytes:
    """Little-endian, row-major: what a safetensors file holds."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def edited(base: Tensor, update: Tensor, *, stored_transposed: bool) -> Tensor:
    """The base's weight plus the update (d_out, d_in), rounded once to the base's dtype.

    Raises EditError when the update does not fit or would leave the dtype's range.
    """
    step = update.T if stored_transposed else update
    if step.shape != base.shape:
        raise EditError(
            "the update does not fit the weight",
            remedy="Check `stored_transposed` in the family's row",
            weight=tuple(base.shape),
            update=tuple(update.shape),
        )
    rounded = (base.double() + step.cpu()).to(base.dtype)
    if not bool(torch.isfinite(rounded).all()):
        raise EditError(
            "the edited weight leaves the range of its dtype",
            remedy="Lower `norm_cap`, or register the base in bfloat16 or float32",
            dtype=str(base.dtype),
        )
    return rounded
