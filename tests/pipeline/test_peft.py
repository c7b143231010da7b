"""An exported adapter, loaded by the real PEFT onto the base, says what the dense release says."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from test_register_stage import registered, saved
from transformers import AutoModelForCausalLM

from corrigenda.models.families import keeps_transposed
from corrigenda.storage.delivery import lora
from corrigenda.storage.delivery.pull import materialise, pull
from corrigenda.storage.releases import publish
from corrigenda.storage.releases.publish import Candidate
from corrigenda.storage.releases.safetensors import RawTensor

LAYER = 1
ASKED = torch.arange(2, 50).reshape(4, 12)


def logits(network: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(ASKED).logits
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_base_and_adapter_are_the_dense_release(tmp_path: Path, kind: str) -> None:
    saved(tmp_path / "source", kind)
    night, base = registered(tmp_path / "fleet", "../source")
    path = "transformer.h.{}.mlp.c_proj.weight" if kind == "gpt2" else "model.layers.{}.mlp.down_proj.weight"
    name = path.format(LAYER)
    old = lora.to_matrix(publish.read_tensor(night.store, base, name))
    draw = np.random.default_rng(0)
    new = (old + 0.3 * draw.normal(size=(old.shape[0], 3)) @ draw.normal(size=(3, old.shape[1]))).astype(
        "<f4"
    )
    files = publish.replaced_files(night.store, base, {name: RawTensor("F32", new.shape, new.tobytes())})
    made = publish.stage(night.store, base, files, Candidate(layer=LAYER), parent=base)
    exported = lora.export(night.store, made, tmp_path / "adapter", stored_transposed=keeps_transposed(kind))
    assert exported.rank == 3
    pull(night.store, "tiny", "0", tmp_path / "base")
    materialise(night.store, made, tmp_path / "dense")

    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    before = logits(plain)
    with warnings.catch_warnings():
        # PEFT warns, and goes on, when keys of an adapter find no place.
        warnings.simplefilter("error", UserWarning)
        adapted = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    dense = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "dense"))
    changed = (dense - before).abs().max()
    # The factors leave out 1e-6 of the change; the rest is float32 rounding through the layers above.
    assert (logits(adapted) - dense).abs().max() < 1e-4 * changed
    assert changed > 0.1
    said = json.loads((tmp_path / "adapter" / lora.FACTS).read_text())
    assert said["relative_error"] == exported.relative_error < lora.TOLERANCE
