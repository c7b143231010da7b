"""A checkpoint directory looked at before anything is loaded or stored: what it is, and what it lacks.

Knows file names and the heads of files; nothing of networks. Each kind that cannot be edited is told in one
line that says the way out.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from corrigenda.errors import NotFoundError, SetupError, UnsupportedModelError
from corrigenda.models.families import refuse_by_configuration

_LFS = b"version https://git-lfs"
_PLAIN_DTYPES = {"F64", "F32", "F16", "BF16"}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_OTHER_WEIGHTS = {".bin", ".pt", ".pth", ".gguf"}
_HEAD = 8  # bytes that say how long a safetensors header is


def examine(directory: Path) -> dict[str, Any]:
    """The text model's part of the configuration of a checkpoint that looks whole.

    Raises NotFoundError, SetupError or UnsupportedModelError, whose text says what the directory is.
    """
    whole = configuration_of(directory)
    _refuse_pointers(directory)
    _refuse_quantised(directory, whole)
    _require_weights(directory)
    _require_tokenizer(directory)
    inner = whole.get("text_config")
    config = inner if isinstance(inner, dict) else whole
    refuse_by_configuration({"model_type": whole.get("model_type")} | config)
    return config


def configuration_of(directory: Path) -> dict[str, Any]:
    """What config.json says. Raises NotFoundError where there is none, SetupError where it is damaged."""
    path = directory / "config.json"
    if not path.is_file():
        _no_checkpoint(directory)
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as fault:
        raise SetupError(
            "config.json cannot be read", remedy=f"Fetch the file again: {fault}", directory=str(directory)
        ) from None
    if not isinstance(read, dict) or not isinstance(read.get("model_type"), str):
        raise SetupError(
            "config.json does not say what model this is",
            remedy="Fetch the file again; it must hold `model_type`",
            directory=str(directory),
        )
    return read


def _no_checkpoint(directory: Path) -> NoReturn:
    if (directory / "adapter_config.json").is_file():
        raise UnsupportedModelError(
            "this is a PEFT adapter, not a model",
            remedy="Merge it into its base (merge_and_unload), save that, and give its directory",
            directory=str(directory),
        )
    if snapshots := sorted(path for path in directory.glob("snapshots/*") if path.is_dir()):
        raise NotFoundError(
            "this is a folder of the hub's cache, not a checkpoint",
            remedy=f"Give the snapshot itself: {snapshots[-1]}",
            directory=str(directory),
        )
    if (directory / "params.json").is_file():
        raise NotFoundError(
            "this checkpoint is in its maker's own format",
            remedy="Give the directory in Hugging Face's format, with config.json",
            directory=str(directory),
        )
    raise NotFoundError(
        "this is no Hugging Face checkpoint",
        remedy="Give a directory that holds config.json, *.safetensors and tokenizer.json",
        directory=str(directory),
    )


def _refuse_pointers(directory: Path) -> None:
    for path in sorted([*directory.glob("*.safetensors"), *directory.glob("tokenizer*")]):
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise SetupError(
                    "the files are pointers of Git LFS, not the files themselves",
                    remedy="Run `git lfs pull` in the directory",
                    file=path.name,
                    directory=str(directory),
                )


def _refuse_quantised(directory: Path, config: dict[str, Any]) -> None:
    inner = config.get("text_config")
    said = config.get("quantization_config") or (isinstance(inner, dict) and inner.get("quantization_config"))
    method = None
    if isinstance(said, dict):
        method = str(said.get("quant_method", "unknown method"))
    elif (directory / "hf_quant_config.json").is_file():
        method = "modelopt"
    else:
        odd = {dtype for dtype, shape in _tensors(directory) if len(shape) == 2} - _PLAIN_DTYPES
        method = ", ".join(sorted(odd)) or None
    if method is not None:
        raise UnsupportedModelError(
            "the weights are quantised, and an edit would be lost in their steps",
            remedy="Register the model in 16 or 32 bit that this was made from, and quantise what is pulled",
            method=method,
            directory=str(directory),
        )


def _tensors(directory: Path) -> Iterator[tuple[str, list[int]]]:
    """Dtype and shape of every tensor in the directory's safetensors files."""
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(_HEAD))
                head = json.loads(file.read(min(length, path.stat().st_size)))
            yield from ((one["dtype"], one["shape"]) for name, one in head.items() if name != "__metadata__")
        except (struct.error, ValueError, KeyError, TypeError):
            raise SetupError(
                "a file of weights is damaged",
                remedy="Fetch it again",
                file=path.name,
                directory=str(directory),
            ) from None


def _require_weights(directory: Path) -> None:
    found = sorted(path.name for path in directory.glob("*.safetensors"))
    if "model.safetensors" in found or (directory / "model.safetensors.index.json").is_file():
        return
    variants = [name for name in found if name.startswith("model.") and name.count(".") == 2]
    if variants:
        raise NotFoundError(
            "the weights are a variant, which loaders do not look for",
            remedy=f"Rename {variants[0]} to model.safetensors",
            directory=str(directory),
        )
    if not found:
        others = sorted(
            path.name for path in directory.glob("*") if path.suffix in {".bin", ".pt", ".pth", ".gguf"}
        )
        raise NotFoundError(
            "there are no weights in safetensors files",
            remedy="Load the model with transformers and `save_pretrained` it; a .gguf file is a source, too",
            directory=str(directory),
            found=others[:5],
        )


def _require_tokenizer(directory: Path) -> None:
    if any((directory / name).is_file() for name in _TOKENIZERS):
        return
    tekken = (directory / "tekken.json").is_file()
    raise NotFoundError(
        "the tokenizer is there as tekken.json only" if tekken else "the model has no tokenizer",
        remedy="Put tokenizer.json and tokenizer_config.json beside the weights, from its page on the "
        "hub or from its base",
        directory=str(directory),
    )
