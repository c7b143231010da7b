"""A network's family, found from its module tree and one look at how it computes.

Nothing here is taken on trust afterwards: `models/agreement.py` holds the fast path, which is built on what
is found, against the network's own forward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from corrigenda.errors import UnsupportedModelError
from corrigenda.models.families import Family

# Parts of a layer in which no MLP's projection is looked for.
_MIXES_TOKENS = re.compile(r"att|mixer|mamba|conv|temporal|recurrent|rglru|hyper|norm", re.IGNORECASE)
_EXPERTS = re.compile(r"expert|router|moe", re.IGNORECASE)
# How far figures may be apart that are equal but for rounding, in 16 bit and in more.
ROUNDING = {torch.float16: 2e-2, torch.bfloat16: 4e-2}
EXACT = 2e-3


def layout_of(network: Any, own: Mapping[str, Any] | None = None) -> Family:
    """Where the layers and their projections are, from the module tree alone: weights may be absent.

    own   fields of a family that are said by hand, and not looked for

    Raises UnsupportedModelError.
    """
    config = network.config.get_text_config()
    given = dict(own or {})
    layers = given.get("layers") or _path_of_layers(network, config)
    blocks = _blocks(network, layers)
    projection = given.get("projection") or _path_of_projection(config, blocks)
    maps = [_submodule(block, projection) for block in blocks]
    if any(getattr(getattr(one, "weight", None), "ndim", 0) != 2 for one in maps):
        raise _unsupported(
            "not every layer has the same single map that could be edited", config, projection=projection
        )
    transposed = given.get("stored_transposed", type(maps[0]).__name__ == "Conv1D")
    return replace(
        Family(str(config.model_type), layers, projection, (), bool(transposed)),
        **{name: given[name] for name in ("post_norm", "gain") if name in given},
    )


@torch.no_grad()
def family_of(network: Any, own: Mapping[str, Any] | None = None) -> Family:
    """The family of a network with weights: its layout, and what stands behind a projection and the layers.

    Raises UnsupportedModelError when what a layer does with the projection's output is neither to add it to
    the hidden state nor to add a norm of it.
    """
    found = layout_of(network, own)
    look = _Look(network, found)
    tail = look.tail()
    if own and "post_norm" in own:
        return replace(found, tail=tail)
    post_norm, gain = look.behind_the_projection()
    return replace(found, tail=tail, post_norm=post_norm, gain=gain)


def decoder_of(network: Any) -> Any:
    """The part of a network that reads text: the language tower of one that sees, too."""
    return network.get_decoder()


def _path_of(network: Any, module: nn.Module) -> str:
    return str(next(name for name, one in network.named_modules() if one is module))


def _path_of_layers(network: Any, config: Any) -> str:
    decoder = decoder_of(network)
    count = getattr(config, "num_hidden_layers", None)
    for name, module in decoder.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return f"{_path_of(network, decoder)}.{name}".removeprefix(".")
    raise _unsupported("the list of layers was not found", config, layers=count)


def _path_of_projection(config: Any, blocks: nn.ModuleList) -> str:
    if any(_EXPERTS.search(name) for block in blocks for name, _ in block.named_modules()):
        raise _unsupported("a mixture of experts has no single map per layer that could be edited", config)
    width = config.hidden_size
    found: list[str] = [
        name
        for name, module in blocks[0].named_modules()
        if not _MIXES_TOKENS.search(name) and _outputs(module) == width
    ]
    if not found:
        raise _unsupported("no layer has an MLP whose output projection could be edited", config)
    return found[-1]


def _outputs(module: nn.Module) -> int | None:
    """Width of what a linear map puts out."""
    if isinstance(module, nn.Linear):
        return int(module.out_features)
    return int(module.nf) if type(module).__name__ == "Conv1D" else None  # type: ignore[arg-type]


def _blocks(network: Any, path: str) -> nn.ModuleList:
    found = _submodule(network, path)
    if not isinstance(found, nn.ModuleList):
        raise _unsupported("what `layers` names is no list of layers", network.config, layers=path)
    return found


def _submodule(module: Any, path: str) -> Any:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _unsupported(what: str, config: Any, **facts: Any) -> UnsupportedModelError:
    return UnsupportedModelError(
        what,
        remedy="See docs/reference/models.md for what can be edited, or say where things are with `family = "
        "{ layers = …, projection = … }` in the model's entry",
        model_type=str(config.model_type),
        **facts,
    )


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    module: nn.Module
    given: Any
    out: Any


class _Look:
    """One short text through a network, and what is seen of it."""

    def __init__(self, network: Any, family: Family) -> None:
        self.network, self.family = network, family
        self.decoder = decoder_of(network)
        self.layers = network.get_submodule(family.layers)
        self.block = self.layers[len(self.layers) // 2]
        self.projection = self.block.get_submodule(family.projection)
        vocabulary = network.config.get_text_config().vocab_size
        self.tokens = torch.arange(7, device=network.device)[None] % vocabulary

    def _run(self) -> Any:
        return self.decoder(input_ids=self.tokens, use_cache=False)

    def tail(self) -> tuple[str, ...]:
        """Modules of the decoder that are called behind the last layer, in their order."""
        inside = set(self.layers.modules())
        children = [(name, one) for name, one in self.decoder.named_children() if one not in inside]
        with _listening([*children, ("", self.layers[-1])]) as calls:
            wanted = self._run().last_hidden_state
        last = max(i for i, call in enumerate(calls) if not call.name)
        state = hidden_of(calls[last].out)
        for call in calls[last + 1 :]:
            state = call.module(state)
        if not _alike(state, wanted):
            raise self._strange("what stands behind the last layer is not understood")
        prefix = _path_of(self.network, self.decoder)
        return tuple(f"{prefix}.{call.name}".removeprefix(".") for call in calls[last + 1 :])

    def behind_the_projection(self) -> tuple[str | None, float]:
        """The norm behind the projection, if there is one, and the gain."""
        named = [(name, one) for name, one in self.block.named_modules() if name]
        with _listening([*named, ("", self.block)]) as calls:
            self._run()
        where = [i for i, call in enumerate(calls) if call.module is self.projection]
        if len(where) != 1 or calls[where[0]].out.ndim != 3:
            raise self._strange("a layer does not use its projection just once for each token")
        before, output = hidden_of(calls[-1].out)[0, -1].float(), calls[where[0]].out[0, -1]
        step = self._step(before.norm())
        moved = self._moved(step) - before
        ways: list[tuple[str | None, Callable[[Tensor], Tensor]]] = [(None, lambda out: out)]
        ways += [
            (call.name, call.module) for call in calls[where[0] + 1 : -1] if not list(call.module.children())
        ]
        for name, way in ways:
            gain = self._gain(moved, (way(output + step) - way(output)).float())
            if gain is not None:
                return name, gain
        raise self._strange("a layer neither adds its projection's output nor a norm of it")

    def _step(self, length: Tensor) -> Tensor:
        """Something to add to the projection's output, as long as the hidden state."""
        width = self.network.config.get_text_config().hidden_size
        step = torch.randn(width, generator=torch.Generator().manual_seed(0)).to(length.device)
        scaled: Tensor = (step / step.norm() * length).to(self.network.dtype)
        return scaled

    def _moved(self, step: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def add(_module: Any, _given: Any, out: Tensor) -> Tensor:
            return torch.cat((out[:, :-1], out[:, -1:] + step), dim=1)

        hooks = [
            self.projection.register_forward_hook(add),
            self.block.register_forward_hook(lambda _m, _g, out: kept.append(hidden_of(out))),
        ]
        try:
            self._run()
        finally:
            for hook in hooks:
                hook.remove()
        return kept[0][0, -1].float()

    def _gain(self, moved: Tensor, shift: Tensor) -> float | None:
        """c where `moved` is c times `shift`; None where it is not."""
        if shift.shape != moved.shape or not float(shift.norm()):
            return None
        gain = float(moved @ shift / (shift @ shift))
        known = getattr(self.network.config.get_text_config(), "residual_multiplier", None)
        for likely in (1.0, known):
            if isinstance(likely, float) and abs(gain / likely - 1) < 0.02:
                gain = likely
        return gain if _alike(gain * shift, moved, self.network.dtype) else None

    def _strange(self, what: str) -> UnsupportedModelError:
        return _unsupported(what, self.network.config.get_text_config())


def hidden_of(out: Any) -> Tensor:
    """The hidden states that a layer returns, alone or first of some."""
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found


def _alike(one: Tensor, other: Tensor, dtype: torch.dtype | None = None) -> bool:
    return apart(one, other) <= ROUNDING.get(dtype or other.dtype, EXACT)


def apart(one: Tensor, other: Tensor) -> float:
    """The distance of two tensors as a share of the second one's length."""
    if one.shape != other.shape:
        return float("inf")
    size = float(other.float().norm())
    return float((one.float() - other.float()).norm()) / max(size, 1e-12)


@contextmanager
def _listening(modules: list[tuple[str, nn.Module]]) -> Iterator[list[_Call]]:
    """Calls of the modules within the block, in the order in which they ended."""
    calls: list[_Call] = []

    def hook(name: str) -> Any:
        return lambda module, given, out: calls.append(_Call(name, module, given, out))

    handles = [module.register_forward_hook(hook(name)) for name, module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
