"""Arithmetic whose last bits do not depend on what else is in the batch.

A matrix product rounds the same row alike whatever the other rows are, as long as one thread computes it and
there are a few rows at least: with fewer, or with threads that share one product, libraries choose other
kernels and sum in another order. So here every product has one thread and MIN_ROWS rows, and what runs at
the same time are whole batches. That makes a result a function of its own inputs, on a given kind of machine,
for layers whose widths are multiples of 32 (all that we know): at the end of other widths elementwise
functions are computed by other code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import get_ident
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from corrigenda.settings import Products

MIN_ROWS = 16

Job = TypeVar("Job")
Result = TypeVar("Result")


class Steady(TorchFunctionMode):
    """Within the block, linear maps of few rows are computed among rows of zeros."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is linear:
            return _padded(lambda rows: linear(rows, *args[1:], **kwargs), args[0])
        if func is torch.addmm and args[0].ndim == 1:  # GPT-2's Conv1D: bias, rows, weight
            return _padded(lambda rows: torch.addmm(args[0], rows, *args[2:], **kwargs), args[1])
        return func(*args, **kwargs)


class Halved(TorchFunctionMode):
    """Within the block, products with frozen weights are computed in bfloat16; all else stays what it is.

    Hidden states, norms and softmaxes keep their precision, and every product's sum is rounded once. The
    halves of the weights are kept, so one mode serves all threads; weights must not change meanwhile.
    """

    def __init__(self) -> None:
        super().__init__()
        # With the weight itself: a number is given anew when its owner is gone.
        self.halves: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is linear and not kwargs and self._takes(args[1]):
            return self._with_bias(linear(args[0].bfloat16(), self._half(args[1])), *args[2:])
        if func is torch.addmm and not kwargs and self._takes(args[2]):  # GPT-2's Conv1D
            return self._with_bias(torch.mm(args[1].bfloat16(), self._half(args[2])), args[0])
        return func(*args, **kwargs)

    def _takes(self, weight: Tensor) -> bool:
        return weight.dtype == torch.float32 and not weight.requires_grad

    def _half(self, weight: Tensor) -> Tensor:
        if id(weight) not in self.halves:
            self.halves[id(weight)] = weight, weight.detach().bfloat16()
        return self.halves[id(weight)][1]

    @staticmethod
    def _with_bias(product: Tensor, bias: Tensor | None = None) -> Tensor:
        return product.float() if bias is None else product.float() + bias


def products_in(wanted: Products, device: torch.device) -> AbstractContextManager[object]:
    """How matrix products are computed within the block; `auto`: as the processor is fast at."""
    half = wanted == "bfloat16" or (wanted == "auto" and _fast_in_half(device))
    return Halved() if half else nullcontext()


def _fast_in_half(device: torch.device) -> bool:
    return device.type == "cpu" and (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def _padded(apply: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    count = rows[..., 0].numel()
    if count >= MIN_ROWS:
        return apply(rows)
    flat = rows.reshape(count, rows.shape[-1])
    filled = torch.cat((flat, flat.new_zeros(MIN_ROWS - count, flat.shape[1])))
    return apply(filled)[:count].reshape(*rows.shape[:-1], -1)


def in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A module hook that leaves alone what other threads do with the same module."""
    mine = get_ident()

    def only(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if get_ident() == mine else None

    return only


def side_by_side(
    work: Callable[[Job], Result], jobs: Iterable[Job], device: torch.device
) -> Iterator[tuple[Job, Result]]:
    """Each job and its result, in the jobs' order; as many at once as torch may use threads.

    On an accelerator they run one after the other. The number of threads comes back at the end.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu":
        for job in jobs:
            yield job, work(job)
        return

    def steadily(job: Job) -> Result:
        torch.set_num_threads(1)  # of this worker: each thread has a setting of its own
        with Steady():
            return work(job)

    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads)
    try:
        running: list[tuple[Job, Future[Result]]] = [(job, pool.submit(steadily, job)) for job in jobs]
        for job, future in running:
            yield job, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
