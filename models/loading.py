"""Loading a checkpoint directory into a frozen language model that the other layers share.

Knows transformers; nothing of stores, facts or edits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from corrigenda.config import Dtype
from corrigenda.errors import NotFoundError, SetupError, UnsupportedModelError
from corrigenda.models.families import Family, family_of


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal language model with frozen weights, its tokenizer and its family.

    network     a transformers causal LM in eval mode, no parameter asks for gradients
    tokenizer   its fast tokenizer (character offsets are needed to find subjects)
    """

    network: Any
    tokenizer: Any
    family: Family
    device: torch.device

    @property
    def layers(self) -> nn.ModuleList:
        found = self.network.get_submodule(self.family.layers)
        assert isinstance(found, nn.ModuleList)
        return found

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    def projection(self, layer: int) -> nn.Module:
        """The MLP output projection of `layer`: input (…, d_in) = key, output (…, d_out)."""
        return self.layers[layer].get_submodule(self.family.projection)

    @property
    def final_norm(self) -> nn.Module:
        """The norm before the output embedding."""
        found: nn.Module = self.network.get_submodule(self.family.final_norm)
        return found

    def post_norm(self, layer: int) -> nn.Module | None:
        """The norm that stands behind the projection of `layer`, in families that have one."""
        path = self.family.post_norm
        return None if path is None else self.layers[layer].get_submodule(path)

    def weight(self, layer: int) -> Tensor:
        """The editable weight as stored: (d_out, d_in), or (d_in, d_out) if `stored_transposed`."""
        return self.projection(layer).get_parameter("weight")

    def linear_map(self, layer: int) -> Tensor:
        """The editable weight as (d_out, d_in), however it is stored."""
        return self.weight(layer).T if self.family.stored_transposed else self.weight(layer)

    def weight_name(self, layer: int) -> str:
        return self.family.weight_name(layer)

    @property
    def editable(self) -> list[str]:
        """Names of all tensors that an edit may replace, one per layer."""
        return [self.weight_name(layer) for layer in range(self.n_layers)]

    @property
    def longest(self) -> int:
        """Tokens of the longest text that the model can read."""
        return int(self.network.config.get_text_config().max_position_embeddings)

    @property
    def body(self) -> Any:
        """The network without its output embedding; returns hidden states after the final norm."""
        return self.network.base_model

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (…, vocabulary) in float32 of hidden states (…, d) that passed the final norm."""
        raw: Tensor = self.network.get_output_embeddings()(hidden)
        cap = getattr(self.network.config, "final_logit_softcapping", None)
        return (raw if cap is None else cap * torch.tanh(raw / cap)).float()

    def norm(self, hidden: Tensor) -> Tensor:
        """The final norm, for hidden states that left the last layer."""
        out: Tensor = self.final_norm(hidden)
        return out

    @contextmanager
    def trial(self, layer: int, delta: Tensor) -> Iterator[None]:
        """Add `delta` (d_out, d_in) to the weight of `layer` for the length of the block.

        The very bits come back afterwards, even when the block raises.
        """
        weight = self.weight(layer)
        saved = weight.detach().clone()
        step = delta.T if self.family.stored_transposed else delta
        try:
            with torch.no_grad():
                # Added in float64 and rounded once. On the CPU: not every device knows float64.
                weight.copy_((saved.cpu().double() + step.cpu()).to(saved.dtype))
            yield
        finally:
            with torch.no_grad():
                weight.copy_(saved)  # copy, not subtract: floating point does not add back


def in_float64(values: Tensor) -> Tensor:
    """The same numbers in float64: where they are, or on the CPU where the device knows none (MPS)."""
    return values.double() if values.device.type in ("cpu", "cuda") else values.cpu().double()


def pick_device(wanted: str) -> torch.device:
    """`auto` is the first CUDA device if there is one, else the CPU. Raises SetupError."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as fault:
        first = str(fault).strip().splitlines()[0]
        raise SetupError(
            "there is no such device here",
            remedy=f"Set `device` to auto or cpu. torch says: {first}",
            device=wanted,
        ) from None
    return device


def precision(device: str, dtype: Dtype) -> str:
    """In what a network computes there: `float32`, `bfloat16`, `float16`, or `auto` for as it is stored.

    Whatever is measured of a base depends on it.
    """
    return "float32" if dtype == "auto" and pick_device(device).type == "cpu" else dtype


def load(directory: Path, device: str = "auto", dtype: Dtype = "auto") -> LanguageModel:
    """Load a Hugging Face directory, in the dtype that is asked for.

    dtype   auto: float32 on a CPU, whatever the files hold, and elsewhere what they hold

    Raises NotFoundError, UnsupportedModelError, SetupError.
    """
    family = family_of(_model_type(directory))
    place = pick_device(device)
    try:
        with quiet_transformers():
            network = AutoModelForCausalLM.from_pretrained(
                directory, dtype=precision(device, dtype), local_files_only=True, attn_implementation="eager"
            )
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as fault:
        first = str(fault).strip().splitlines()[0]
        raise SetupError("the checkpoint cannot be loaded", remedy=first, directory=str(directory)) from fault
    if not tokenizer.is_fast:
        raise UnsupportedModelError(
            "the tokenizer gives no character offsets",
            remedy="Save the model with a fast tokenizer (tokenizer.json)",
            directory=str(directory),
        )
    tokenizer.padding_side = "right"
    network.eval().requires_grad_(False)
    return LanguageModel(_moved(network, place), tokenizer, family, place)


def _moved(network: Any, place: torch.device) -> Any:
    try:
        return network.to(place)
    except torch.OutOfMemoryError as fault:
        size = sum(weight.numel() * weight.element_size() for weight in network.parameters())
        raise SetupError(
            "the model does not fit on the device",
            remedy="Set `dtype` to bfloat16 or `device` to another one in the model's entry",
            device=str(place),
            gigabytes=round(size / 1e9, 1),
        ) from fault


def _model_type(directory: Path) -> str:
    path = directory / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("model_type"))
    except FileNotFoundError:
        raise NotFoundError(
            "this is no Hugging Face checkpoint",
            remedy="Give a directory that holds config.json, *.safetensors and tokenizer.json",
            directory=str(directory),
        ) from None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice from transformers while loading."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
