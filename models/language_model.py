"""A causal language model as all layers share it: frozen weights, a tokenizer, and where its parts are.

Knows modules and tensors; nothing of directories, stores, facts or edits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from corrigenda.models.families import Family
from corrigenda.models.head import head_of
from corrigenda.models.structure import decoder_of

# Tokens that a model can read whose configuration names no limit.
UNLIMITED = 2**20


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with frozen weights, its tokenizer and its family.

    network     a transformers causal LM in eval mode, no parameter asks for gradients
    tokenizer   its fast tokenizer (character offsets are needed to find subjects)
    plain       texts are read whole, in plain batches: for networks of which the fast path, which reads
                beginnings once and runs the upper layers alone, has not been found equal to their forward
    """

    network: Any
    tokenizer: Any
    family: Family
    device: torch.device
    plain: bool = False

    @cached_property
    def layers(self) -> nn.ModuleList:
        found = self.network.get_submodule(self.family.layers)
        assert isinstance(found, nn.ModuleList)
        return found

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def config(self) -> Any:
        """The configuration of the text model."""
        return self.network.config.get_text_config()

    def projection(self, layer: int) -> nn.Module:
        """The MLP output projection of `layer`: input (…, d_in) = key, output (…, d_out)."""
        return self.layers[layer].get_submodule(self.family.projection)

    @cached_property
    def tail(self) -> tuple[nn.Module, ...]:
        """What stands behind the last layer: the norm before the output embedding, mostly."""
        return tuple(self.network.get_submodule(path) for path in self.family.tail)

    def post_norm(self, layer: int) -> nn.Module | None:
        """The norm that stands behind the projection of `layer`, in families that have one."""
        path = self.family.post_norm
        return None if path is None else self.layers[layer].get_submodule(path)

    def added(self, layer: int, output: Tensor) -> Tensor:
        """What is added to the hidden state when the projection of `layer` puts out `output` (…, d_out)."""
        norm = self.post_norm(layer)
        if isinstance(norm, nn.LayerNorm):  # which takes no other dtype than its own
            output = output.to(norm.weight.dtype)
        shown: Tensor = output if norm is None else norm(output)
        return shown * self.family.gain

    def window(self, layer: int) -> int | None:
        """How many tokens, its own included, a token of `layer` sees; None for all before it."""
        kinds = getattr(self.config, "layer_types", None)
        if kinds is not None and kinds[layer] != "sliding_attention":
            return None
        wanted = getattr(self.config, "use_sliding_window", True)
        return getattr(self.config, "sliding_window", None) if wanted or kinds else None

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        """By layer."""
        return tuple(self.window(layer) for layer in range(self.n_layers))

    def weight(self, layer: int) -> Tensor:
        """The editable weight as stored: (d_out, d_in), or (d_in, d_out) if `stored_transposed`."""
        return self.projection(layer).get_parameter("weight")

    def linear_map(self, layer: int) -> Tensor:
        """The editable weight as (d_out, d_in), however it is stored."""
        return self.weight(layer).T if self.family.stored_transposed else self.weight(layer)

    def weight_name(self, layer: int) -> str:
        """The editable tensor of `layer`, as the network calls it."""
        return self.family.weight_name(layer)

    @property
    def editable(self) -> list[str]:
        """Names of all tensors that an edit may replace, one per layer."""
        return [self.weight_name(layer) for layer in range(self.n_layers)]

    @property
    def longest(self) -> int:
        """Tokens of the longest text that the model can read."""
        limits = (getattr(self.config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
        return next((int(limit) for limit in limits if limit), UNLIMITED)

    @property
    def ends(self) -> frozenset[int]:
        """Tokens with which the model ends a text or its turn."""
        told = getattr(self.network.generation_config, "eos_token_id", None)
        listed = told if isinstance(told, list | tuple) else [told]
        return frozenset(t for t in (*listed, self.tokenizer.eos_token_id) if t is not None)

    @cached_property
    def body(self) -> Any:
        """The network without its output embedding; returns hidden states after the final norm."""
        return decoder_of(self.network)

    @cached_property
    def _head(self) -> Any:
        return head_of(self.network)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (…, vocabulary) in float32 of hidden states (…, d) that passed the final norm.

        The network's own: whatever it scales or caps them with.
        """
        flat = hidden.reshape(1, -1, hidden.shape[-1])
        raw: Tensor = self._head(inputs_embeds=flat, use_cache=False).logits
        return raw.reshape(*hidden.shape[:-1], raw.shape[-1]).float()

    def norm(self, hidden: Tensor) -> Tensor:
        """What stands behind the last layer, for hidden states that left it."""
        for module in self.tail:
            hidden = module(hidden)
        return hidden

    def beside(self, weights: Mapping[int, Tensor]) -> LanguageModel:
        """The same model with other editable weights, as stored, {layer: weight}; it shares all others.

        Raises ValueError for a weight of another shape.
        """
        kept = {id(one): one for one in (*self.network.parameters(), *self.network.buffers())}
        other = replace(self, network=copy.deepcopy(self.network, dict(kept)))
        for layer, weight in weights.items():
            own = self.weight(layer)
            if weight.shape != own.shape:
                raise ValueError(f"{tuple(weight.shape)} cannot stand for {tuple(own.shape)}")
            changed = nn.Parameter(weight.to(own.device, own.dtype), requires_grad=False)
            other.projection(layer).register_parameter("weight", changed)
        return other

    @contextmanager
    def trial(self, deltas: Mapping[int, Tensor]) -> Iterator[None]:
        """Add to the weights of some layers, {layer: (d_out, d_in)}, for the length of the block.

        The very bits come back afterwards, even when the block raises.
        """
        saved = {layer: self.weight(layer).detach().clone() for layer in deltas}
        try:
            with torch.no_grad():
                # Added in float64 and rounded once. On the CPU: not every device knows float64.
                for layer, delta in deltas.items():
                    step = delta.T if self.family.stored_transposed else delta
                    edited = saved[layer].cpu().double() + step.cpu()
                    self.weight(layer).copy_(edited.to(saved[layer].dtype))
            yield
        finally:
            with torch.no_grad():
                for layer, own in saved.items():  # copy, not subtract: floating point does not add back
                    self.weight(layer).copy_(own)


def in_float64(values: Tensor) -> Tensor:
    """The same numbers in float64: where they are, or on the CPU where the device knows none (MPS)."""
    return values.double() if values.device.type in ("cpu", "cuda") else values.cpu().double()
