"""A device that refuses what CUDA or MPS refuses, for machines that have no GPU.

Its tensors live on PyTorch's PrivateUse1 device and hold a tensor of the CPU: numbers are the CPU's own. An
operation whose tensors lie on two devices, or a product of two dtypes, is an error, as it is with CUDA; so is
`numpy()`; and there is no float64, as there is none with MPS. A CPU tensor of no dimension may take part in
arithmetic and a CPU tensor may index, as with CUDA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "strict"
aten = torch.ops.aten

# Operations that CUDA refuses when floating-point arguments are of two dtypes; the CPU refuses most, too.
_ONE_DTYPE = {
    "mm", "bmm", "addmm", "baddbmm", "addbmm", "addmv", "mv", "dot", "linear", "native_layer_norm",
    "index_add", "index_copy", "index_put", "scatter_add", "masked_scatter", "convolution", "cholesky_solve",
    "linalg_solve_ex", "scaled_dot_product_attention", "_scaled_dot_product_attention_math",
}  # fmt: skip
# Where a CPU tensor may stand beside tensors of the device: indices, and both sides of a copy.
_FREE = {"copy_", "_to_copy", "_copy_from", "set_", "index", "index_put", "index_put_"}
_HALF = (torch.float16, torch.bfloat16)


class Strict(Tensor):
    """A tensor of the device `strict`. held: the numbers, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Strict:
        if held.dtype == torch.float64:
            raise TypeError("the device has no float64")
        made: Strict = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    @property  # type: ignore[override]
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, new: Strict) -> None:
        self.held = new.held

    def tolist(self) -> Any:
        return self.held.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert strict:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __repr__(self, **_: Any) -> str:
        return f"Strict({self.held!r})"


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name.partition("::")[2]
    flat, spec = tree_flatten((args, kwargs))
    if name not in _FREE:
        _check_devices(name, flat)
    if name.rstrip("_") in _ONE_DTYPE:
        _check_dtypes(name, flat)
    if name.startswith("linalg_") and any(isinstance(a, Tensor) and a.dtype in _HALF for a in flat):
        raise RuntimeError(f"{name}: low precision dtypes are not supported")
    plain, kw = tree_unflatten([a.held if isinstance(a, Strict) else a for a in flat], spec)
    if name in ("_to_copy", "to"):
        return _moved(func, plain, kw)
    if "device" in kw:
        kw["device"] = torch.device("cpu")
    out = func(*plain, **kw)
    owners = {id(a.held): a for a in flat if isinstance(a, Strict)}
    if name == "copy_" and not isinstance(args[0], Strict):
        return args[0]

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in owners:  # in place, or a view of the whole: the same tensor
            return _refreshed(owners[id(value)], value)
        return Strict(value)

    return tree_map(wrap, out)


def _refreshed(owner: Strict, held: Tensor) -> Strict:
    return owner if owner.shape == held.shape else Strict(held)


def _moved(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    wanted = kwargs.pop("device", None)
    here = wanted is None or torch.device(wanted).type == NAME
    out = func(*args, **kwargs)
    return Strict(out) if here else out


def _check_devices(name: str, flat: list[Any]) -> None:
    tensors = [a for a in flat if isinstance(a, Tensor)]
    strays = [a for a in tensors if not isinstance(a, Strict) and a.ndim]
    if strays and len(strays) < len(tensors):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found strict:0 and cpu")


def _check_dtypes(name: str, flat: list[Any]) -> None:
    found = {a.dtype for a in flat if isinstance(a, Tensor) and a.is_floating_point()}
    if len(found) > 1:
        raise RuntimeError(f"{name}: expected tensors of one dtype, found {sorted(map(str, found))}")


def _factory(op: Any) -> Any:
    def make(*args: Any, **kwargs: Any) -> Strict:
        kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        return Strict(op(*args, **kwargs))

    return make


def _copy_from(source: Tensor, into: Tensor, non_blocking: bool = False) -> Tensor:
    held = [t.held if isinstance(t, Strict) else t for t in (source, into)]
    held[1].copy_(held[0])
    return into


_library: list[torch.library.Library] = []


def set_up() -> str:
    """Register the device with PyTorch, once a process and before any backward pass; its name."""
    if _library:
        return NAME
    _setup_privateuseone_for_python_backend(NAME)
    library = torch.library.Library("aten", "IMPL", "PrivateUse1")
    for op in (
        aten.empty.memory_format, aten.empty_strided.default, aten.arange.start_step, aten.arange.start,
        aten.arange.default, aten.eye.default, aten.full.default, aten.scalar_tensor.default,
        aten.randn.default,
    ):  # fmt: skip
        library.impl(op, _factory(op))
    library.impl(aten._copy_from.default, _copy_from)
    _library.append(library)
    return NAME
