"""Adapters: as small as the change allows, and honest about what they leave out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from releases import EDITABLE, checkpoint, register, release, save, stage

from corrigenda.errors import UsageError
from corrigenda.storage.delivery import lora
from corrigenda.storage.releases import safetensors
from corrigenda.storage.releases.publish import Candidate
from corrigenda.storage.releases.safetensors import RawTensor


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_a_change_of_low_rank_is_factored_exactly(seed, rank):
    draw = np.random.default_rng(seed)
    delta = draw.normal(size=(9, rank)) @ draw.normal(size=(rank, 14))
    ((up, down),) = lora.factor([delta], tolerance=1e-9)
    assert up.shape[1] <= rank
    np.testing.assert_allclose(up @ down, delta, atol=1e-7 * np.abs(delta).max())


@given(st.integers(0, 2**32 - 1), st.floats(0.001, 0.9))
def test_what_is_left_out_is_within_the_tolerance_and_one_rank_less_is_not(seed, tolerance):
    delta = np.random.default_rng(seed).normal(size=(8, 12))
    ((up, down),) = lora.factor([delta], tolerance=tolerance)
    error = np.linalg.norm(delta - up @ down) / np.linalg.norm(delta)
    assert error <= tolerance * (1 + 1e-9)
    if up.shape[1] > 1:
        smaller = delta - up[:, :-1] @ down[:-1]
        assert np.linalg.norm(smaller) / np.linalg.norm(delta) > tolerance


def test_changes_of_several_tensors_share_one_rank():
    draw = np.random.default_rng(0)
    deltas = [draw.normal(size=(9, rank)) @ draw.normal(size=(rank, 14)) for rank in (1, 4, 2)]
    factors = lora.factor(deltas, tolerance=1e-9)
    assert {(up.shape, down.shape) for up, down in factors} == {((9, 4), (4, 14))}
    for delta, (up, down) in zip(deltas, factors, strict=True):
        np.testing.assert_allclose(up @ down, delta, atol=1e-7)


def test_a_change_of_high_rank_is_refused():
    with pytest.raises(UsageError, match="too high a rank"):
        lora.factor([np.eye(8)], max_rank=4)


@pytest.fixture
def base(local_store, tmp_path):
    return register(local_store, save(tmp_path / "base", checkpoint()))


def floats(seed: int) -> RawTensor:
    body = np.random.default_rng(seed).normal(size=(8, 16)).astype("<f4")
    return RawTensor("F32", (8, 16), body.tobytes())


@pytest.mark.parametrize("transposed", [False, True])
def test_base_and_adapter_together_are_the_release(local_store, tmp_path, transposed):
    old = checkpoint() | {EDITABLE[1]: floats(1)}
    base = register(local_store, save(tmp_path / "floats", old), "floats")
    made = stage(local_store, base, {EDITABLE[1]: floats(2)}, Candidate(layer=1), parent=base)
    out = tmp_path / "adapter"
    adapter = lora.export(local_store, made, out, stored_transposed=transposed)
    found = {
        key.rpartition(".lora_")[2]: t.read()
        for key, t in safetensors.read_header(out / lora._WEIGHTS).items()
    }
    change = lora.to_matrix(found["B.weight"]) @ lora.to_matrix(found["A.weight"])
    wanted = lora.to_matrix(floats(2)) - lora.to_matrix(floats(1))
    np.testing.assert_allclose(change.T if transposed else change, wanted, atol=1e-5)
    assert adapter.relative_error <= lora.TOLERANCE and adapter.largest_error < 1e-5
    config = json.loads((out / lora._CONFIG).read_text())
    assert (config["r"], config["lora_alpha"]) == (adapter.rank, adapter.rank)
    assert config["target_modules"] == ["mlp.down_proj"] and config["layers_to_transform"] == [1]
    assert config["fan_in_fan_out"] is transposed
    with pytest.raises(UsageError, match="exists"):
        lora.export(local_store, made, out)


def test_an_adapter_of_a_band_changes_each_of_its_layers(local_store, tmp_path):
    old = checkpoint() | {name: floats(i) for i, name in enumerate(EDITABLE)}
    base = register(local_store, save(tmp_path / "floats", old), "floats")
    new = {name: floats(10 + i) for i, name in enumerate(EDITABLE)}
    made = stage(local_store, base, new, Candidate(layer=1), parent=base)
    out = tmp_path / "adapter"
    adapter = lora.export(local_store, made, out)
    assert adapter.tensors == tuple(EDITABLE)
    found = {key: tensor.read() for key, tensor in safetensors.read_header(out / lora._WEIGHTS).items()}
    for i, name in enumerate(EDITABLE):
        up, down = (
            lora.to_matrix(found[f"base_model.model.{name.removesuffix('.weight')}.lora_{part}.weight"])
            for part in "BA"
        )
        wanted = lora.to_matrix(floats(10 + i)) - lora.to_matrix(floats(i))
        np.testing.assert_allclose(up @ down, wanted, atol=1e-5)
    config = json.loads((out / lora._CONFIG).read_text())
    assert config["layers_to_transform"] == list(range(len(EDITABLE)))


def test_the_base_needs_no_adapter(local_store, base, tmp_path):
    with pytest.raises(UsageError, match="changes no tensor"):
        lora.export(local_store, base, tmp_path / "adapter")


def test_bfloat16_is_read_exactly():
    values = np.array([[1.0, -2.5, 0.0, 3.140625]], "<f4")
    raw = RawTensor("BF16", (1, 4), (values.view("<u4") >> 16).astype("<u2").tobytes())
    np.testing.assert_array_equal(lora.to_matrix(raw), values)


def test_a_tensor_that_is_no_matrix_of_floats_is_refused(local_store, base):
    release(local_store, base, seed=1)
    with pytest.raises(UsageError, match="no matrix"):
        lora.to_matrix(RawTensor("I64", (1, 1), bytes(8)))
