"""Loading a checkpoint directory into a frozen language model that the other layers share.

Knows transformers; nothing of stores, facts or edits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from corrigenda.config import Dtype
from corrigenda.errors import SetupError, UnsupportedModelError
from corrigenda.models.agreement import proved
from corrigenda.models.examine import examine
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.structure import family_of

# What transformers raises over a directory that it cannot load; it wraps hardly any of them.
_FAULTS = (OSError, ValueError, RuntimeError, ImportError, KeyError, IndexError, TypeError, AttributeError)


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


def load(
    directory: Path, device: str = "auto", dtype: Dtype = "auto", family: Mapping[str, Any] | None = None
) -> LanguageModel:
    """Load a Hugging Face directory, in the dtype that is asked for.

    dtype    auto: float32 on a CPU, whatever the files hold, and elsewhere what they hold
    family   fields of a `Family` that are said by hand

    Raises NotFoundError, UnsupportedModelError, SetupError.
    """
    examine(directory)
    place = pick_device(device)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            network = _class_for(directory).from_pretrained(
                directory, dtype=precision(device, dtype), local_files_only=True, attn_implementation="eager"
            )
    except _FAULTS as fault:
        first = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise SetupError("the checkpoint cannot be loaded", remedy=first, directory=str(directory)) from fault
    if not tokenizer.is_fast:
        raise UnsupportedModelError(
            "the tokenizer gives no character offsets",
            remedy="Save the model with a fast tokenizer (tokenizer.json)",
            directory=str(directory),
        )
    tokenizer.padding_side = "right"
    network = _moved(network.eval().requires_grad_(False), place)
    with quiet_transformers():
        return proved(LanguageModel(network, tokenizer, family_of(network, family), place))


def _class_for(directory: Path) -> Any:
    """What loads the directory: models that see are no causal language models to transformers."""
    kind = type(AutoConfig.from_pretrained(directory, local_files_only=True))
    return AutoModelForCausalLM if kind in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText


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
