"""What cannot be edited is told in one line, with the way out, from the files alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corrigenda.errors import CorrigendaError
from corrigenda.models.examine import examine


def whole(directory: Path, dtype: str = "BF16", **config: Any) -> Path:
    """A directory that looks like a checkpoint."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"} | config), encoding="utf-8")
    (directory / "tokenizer.json").write_text("{}", encoding="utf-8")
    head = json.dumps({"w": {"dtype": dtype, "shape": [1, 1], "data_offsets": [0, 2]}}).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + b"\0\0")
    return directory


def without(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def adapter(directory: Path) -> None:
    (directory / "config.json").rename(directory / "adapter_config.json")


def cache_root(directory: Path) -> None:
    (directory / "config.json").unlink()
    (directory / "snapshots" / "abc123").mkdir(parents=True)


def pointer(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"
    )


def variant(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model.fp16.safetensors")


def tekken(directory: Path) -> None:
    (directory / "tokenizer.json").rename(directory / "tekken.json")


def in_bin(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def broken(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes(b"{")  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("harm", "what", "remedy"),
    [
        (without("tokenizer.json"), "has no tokenizer", "tokenizer.json"),
        (tekken, "tekken.json only", "tokenizer.json"),
        (without("config.json"), "no Hugging Face checkpoint", "config.json"),
        (broken("config.json"), "config.json cannot be read", "again"),
        (adapter, "PEFT adapter", "merge_and_unload"),
        (cache_root, "hub's cache", "abc123"),
        (pointer, "Git LFS", "git lfs pull"),
        (variant, "a variant", "model.fp16.safetensors"),
        (in_bin, "no weights in safetensors", "save_pretrained"),
        (broken("model.safetensors"), "damaged", "again"),
    ],
)
def test_a_directory_that_is_not_usable_says_what_it_is(
    tmp_path: Path, harm: Callable[[Path], None], what: str, remedy: str
) -> None:
    harm(whole(tmp_path / "base"))
    with pytest.raises(CorrigendaError, match=what) as told:
        examine(tmp_path / "base")
    assert remedy in told.value.remedy
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8", "torchao"])
def test_quantised_weights_are_named_by_their_method(tmp_path: Path, method: str) -> None:
    whole(tmp_path / "base", quantization_config={"quant_method": method})
    with pytest.raises(CorrigendaError, match="quantised") as told:
        examine(tmp_path / "base")
    assert told.value.facts["method"] == method


def test_weights_in_eight_bits_are_quantised_whatever_the_configuration_says(tmp_path: Path) -> None:
    whole(tmp_path / "base", dtype="F8_E4M3")
    with pytest.raises(CorrigendaError, match="quantised"):
        examine(tmp_path / "base")


def test_a_mixture_of_experts_is_refused_by_its_configuration(tmp_path: Path) -> None:
    with pytest.raises(CorrigendaError, match="mixture of experts"):
        examine(whole(tmp_path / "base", num_local_experts=8))


def test_a_whole_directory_gives_its_text_models_configuration(tmp_path: Path) -> None:
    inner = {"model_type": "gemma3_text", "hidden_size": 8}
    assert examine(whole(tmp_path / "base", text_config=inner)) == inner
