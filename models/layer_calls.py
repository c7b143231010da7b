"""How decoder layers are called: what their signatures call the things that all of them take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import nn

# What families call the cache of keys and values.
_CACHE = ("past_key_values", "past_key_value", "layer_past")


def _arguments(layer: nn.Module) -> Mapping[str, inspect.Parameter]:
    return _arguments_of(type(layer).forward)


@cache
def _arguments_of(forward: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(forward).parameters


def cache_argument(layer: nn.Module) -> str:
    """The name of the argument in which a layer takes the cache of keys and values."""
    names = _arguments(layer)
    return next((name for name in _CACHE if name in names), _CACHE[0])


def takes_of(layer: nn.Module, offered: Mapping[str, Any]) -> dict[str, Any]:
    """What of `offered` the layer has an argument for."""
    names = _arguments(layer)
    return {name: value for name, value in offered.items() if name in names}


def named_arguments(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, however they were passed, but for the first: the hidden states."""
    names = [name for name in _arguments(layer) if name != "self"]
    return dict(zip(names[1:], args[1:], strict=False)) | dict(kwargs)


def unused_arguments(layer: nn.Module, given: Mapping[str, Any]) -> dict[str, None]:
    """Arguments that the layer must be given and that are None: it belongs to a family that can do more."""
    names = _arguments(layer)
    return {n: None for n, value in given.items() if value is None and n in names and _needed(names[n])}


def _needed(argument: inspect.Parameter) -> bool:
    return argument.default is inspect.Parameter.empty
