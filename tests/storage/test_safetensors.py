"""The safetensors format by byte ranges, held equal to the reference implementation."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from releases import checkpoint, raw, save

from corrigenda.errors import CorruptBlobError, NotFoundError, UsageError
from corrigenda.storage.releases import safetensors
from corrigenda.storage.releases.safetensors import RawTensor

DTYPES = {"F32": "float32", "F16": "float16", "I64": "int64", "U8": "uint8", "BOOL": "bool", "F64": "float64"}


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
        st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
        min_size=1,
        max_size=6,
    )
)
def test_a_shard_is_byte_for_byte_what_the_reference_writes(shapes):
    numpy = pytest.importorskip("safetensors.numpy")
    import numpy as np

    arrays = {name: np.ones(shape, DTYPES[dtype]) for name, (dtype, shape) in shapes.items()}
    ours = {
        name: RawTensor(dtype, tuple(shape), arrays[name].tobytes())
        for name, (dtype, shape) in shapes.items()
    }
    assert safetensors.shard_bytes(ours) == numpy.save(arrays, {"format": "pt"})


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_checkpoint_is_read_however_it_is_sharded(tmp_path, shards):
    wanted = checkpoint()
    found = safetensors.read_checkpoint(save(tmp_path, wanted, shards))
    assert {name: found[name].read() for name in found} == wanted


def test_streaming_writes_what_memory_writes(tmp_path):
    wanted = checkpoint()
    found = safetensors.read_checkpoint(save(tmp_path, wanted, 2))
    safetensors.write_shard(tmp_path / "out", found.values())
    assert (tmp_path / "out").read_bytes() == safetensors.shard_bytes(wanted)


@pytest.mark.parametrize("cut", [0, 4, 8, 50, -1])
def test_a_cut_file_is_damaged(tmp_path, cut):
    body = safetensors.shard_bytes(checkpoint())
    (tmp_path / "model.safetensors").write_bytes(body[:cut])
    with pytest.raises(CorruptBlobError, match="damaged"):
        safetensors.read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": 1},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
    ],
)
def test_a_lying_header_is_damaged(tmp_path, header):
    body = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(body)) + body + bytes(8))
    with pytest.raises(CorruptBlobError, match="damaged"):
        safetensors.read_header(tmp_path / "x.safetensors")


def test_a_directory_without_weights_says_so(tmp_path):
    with pytest.raises(NotFoundError, match="no safetensors checkpoint"):
        safetensors.read_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    save(tmp_path, checkpoint(), 2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(NotFoundError, match="model-00002"):
        safetensors.read_checkpoint(tmp_path)


def test_the_digest_of_the_weights_does_not_know_the_sharding(tmp_path):
    def digest(directory):
        found = safetensors.read_checkpoint(directory)
        return safetensors.weights_digest(safetensors.write_shard(tmp_path / "x", found.values()), found)

    one = digest(save(tmp_path / "one", checkpoint(), 1))
    assert one == digest(save(tmp_path / "three", checkpoint(), 3))
    assert one != digest(save(tmp_path / "other", checkpoint(seed=1), 1))


def test_bytes_that_do_not_fit_their_shape_are_refused():
    with pytest.raises(UsageError, match="do not fit"):
        safetensors.shard_bytes({"w": RawTensor("F32", (3,), bytes(8))})


def test_a_bare_model_leaves_the_prefix_out():
    assert safetensors.resolve(["h.0.mlp.c_proj.weight"], "transformer.h.0.mlp.c_proj.weight").startswith(
        "h.0"
    )
    with pytest.raises(NotFoundError, match="no such tensor"):
        safetensors.resolve(["a.weight"], "b.bias")


def test_raw_tensors_of_the_tests_differ():
    assert raw(1).data != raw(2).data
