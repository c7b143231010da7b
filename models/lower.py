"""The layers up to the edited one, run alone: a forward pass that stops where its answer is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from corrigenda.errors import EditError
from corrigenda.models.batch_invariant import in_this_thread
from corrigenda.models.encoding import TokenRow
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.prefix_cache import Openings

# Rows that go through together; bounds the memory.
_BATCH = 128


class _ReachedError(Exception):
    """Raised inside a forward pass when all that matters is done."""


def run_up_to(model: LanguageModel, module: nn.Module, **inputs: Any) -> None:
    """Run the network until it comes to `module`, which does not run any more.

    inputs   as the network takes them: input_ids, and what else it needs
    """
    _run(model, module.register_forward_pre_hook(in_this_thread(_stop)), inputs)


def run_through(model: LanguageModel, module: nn.Module, **inputs: Any) -> None:
    """Run the network until `module` has run."""
    _run(model, module.register_forward_hook(in_this_thread(_stop)), inputs)


def _stop(*_: Any) -> None:
    raise _ReachedError


def _run(model: LanguageModel, handle: RemovableHandle, inputs: dict[str, Any]) -> None:
    try:
        model.body(**inputs)
    except _ReachedError:
        return
    finally:
        handle.remove()
    raise EditError("the layers were not reached", remedy="Check `family` in the model's entry")


@contextmanager
def adding(model: LanguageModel, residuals: Mapping[int, Tensor], column: int) -> Iterator[None]:
    """Within the block, in this thread, the projections' outputs gain residuals (rows, d_out) at a column."""

    def gains(residual: Tensor) -> Any:
        def hook(_module: Any, _inputs: Any, out: Tensor) -> Tensor:
            here = column % out.shape[1]
            gained = (out[:, here] + residual).to(out.dtype)
            return torch.cat((out[:, :here], gained[:, None], out[:, here + 1 :]), dim=1)

        return in_this_thread(hook)

    hooks = [model.projection(layer).register_forward_hook(gains(r)) for layer, r in residuals.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def projection_inputs(model: LanguageModel, layers: Sequence[int], **inputs: Any) -> dict[int, Tensor]:
    """Keys (rows, length, d_in) at every position, per layer; the pass stops at the last of the layers.

    inputs   as the network takes them: input_ids, and what else it needs
    """
    seen: dict[int, Tensor] = {}

    def tap(layer: int) -> Any:
        def hook(_module: Any, given: tuple[Tensor, ...]) -> None:
            seen[layer] = given[0]

        return in_this_thread(hook)

    hooks = [model.projection(layer).register_forward_pre_hook(tap(layer)) for layer in layers]
    try:
        run_up_to(model, model.projection(max(layers)), **inputs, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def lookup_keys(
    model: LanguageModel,
    layers: Sequence[int],
    rows: Sequence[TokenRow],
    openings: Openings | None = None,
    residuals: Tensor | None = None,
) -> Tensor:
    """Keys (rows, layers, d_in) at each row's lookup; what follows it is not read, nor its opening again.

    residuals   (rows, layers, d_out) that the projections' outputs gain there: a layer's key is what it is
                when all layers below it have said their part

    Rows of one length go together, so that no row's arithmetic depends on its company.
    """
    top = max(layers)
    found: dict[int, Tensor] = {}
    behind = [openings is not None and _fits(model, row, openings) for row in rows]
    begun = [row.opening if goes_on else 0 for row, goes_on in zip(rows, behind, strict=True)]
    lengths = [row.lookup + 1 - start for row, start in zip(rows, begun, strict=True)]
    for goes_on, length in sorted(set(zip(behind, lengths, strict=True))):
        same = [i for i, own in enumerate(lengths) if own == length and behind[i] == goes_on]
        for first in range(0, len(same), _BATCH):
            some = same[first : first + _BATCH]
            own = [rows[i].tokens[begun[i] : begun[i] + length] for i in some]
            inputs: dict[str, Any] = {"input_ids": torch.tensor(own, device=model.device)}
            if goes_on and openings is not None:
                inputs |= _behind(openings, [rows[i].tokens[: begun[i]] for i in some], length, top)
            below = (layer for layer in layers if layer != top)
            said = {} if residuals is None else {layer: residuals[some, n] for n, layer in enumerate(below)}
            with adding(model, said, column=-1):
                keys = projection_inputs(model, layers, **inputs)
            found.update(zip(some, torch.stack([keys[layer][:, -1] for layer in layers], dim=1), strict=True))
    return torch.stack([found[i] for i in range(len(rows))])


def _fits(model: LanguageModel, row: TokenRow, openings: Openings) -> bool:
    """Whether no window of attention is narrower than openings and row: networks count it in columns, of
    which some are padding."""
    widest = openings.width + row.lookup + 1 - row.opening
    return all(window is None or window >= widest for window in model.windows)


def _behind(
    openings: Openings, beginnings: Sequence[tuple[int, ...]], length: int, layer: int
) -> dict[str, Any]:
    """What the network is told besides the tokens of texts that go on, `length` tokens each."""
    numbers = openings.numbers(beginnings)
    before = openings.present[numbers]
    own = torch.arange(length, device=before.device)
    return {
        "attention_mask": torch.cat((before.long(), torch.ones_like(own).expand(len(numbers), -1)), dim=1),
        "position_ids": before.long().sum(1, keepdim=True) + own,
        "past_key_values": openings.cache(numbers, layer + 1),
    }
