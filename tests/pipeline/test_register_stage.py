"""Every kind of source becomes a release 0 that plain transformers loads, with the source's own bits."""

from __future__ import annotations

import json
import secrets
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_models import tiny, tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "storage"))

from fake_hub import FakeHub
from store_servers import BUCKET, binary, free_port, location, serve, weed_command

from corrigenda.errors import NotFoundError, SetupError
from corrigenda.models import sources
from corrigenda.pipeline.night import Night, open_fleet
from corrigenda.pipeline.register import register
from corrigenda.storage.corrections.intake import Intake
from corrigenda.storage.delivery.pull import pull
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.keys import Keyring
from corrigenda.storage.objects.s3 import S3Store
from corrigenda.storage.releases import safetensors, signatures
from corrigenda.storage.releases.manifests import Release

FLEET = """
[store]
url = "./store"
[queue]
url = "./queue"
[[models]]
name = "tiny"
source = "{source}"
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "cache"))


def registered(root: Path, source: str, more: str = "") -> tuple[Night, Release]:
    """Release 0 of a fleet whose one model has this source."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "fleet.toml").write_text(more + FLEET.format(source=source), encoding="utf-8")
    night = Night(open_fleet(root / "fleet.toml"), "tiny", Intake({}, {}))
    return night, register(night)


def saved(directory: Path, kind: str = "llama", dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """A tiny model's directory; `tied` shares the embeddings, `shard` is the largest size of a shard."""
    model = tiny(kind, layers=3, dtype=dtype)
    network = model.network
    if options.get("tied"):
        network.config.tie_word_embeddings = True
        network.tie_weights()
    network.save_pretrained(directory, max_shard_size=options.get("shard", "5GB"))
    model.tokenizer.save_pretrained(directory)
    return directory


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(directory).state_dict())


def assert_same_model(one: Path, other: Path) -> None:
    """The same tensors, bit by bit and dtype by dtype, as transformers loads them."""
    ours, theirs = weights_of(one), weights_of(other)
    assert set(ours) == set(theirs)
    for name, weight in ours.items():
        assert weight.dtype == theirs[name].dtype
        assert torch.equal(weight.view(torch.uint8), theirs[name].view(torch.uint8)), name


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", [{}, {"shard": "30KB"}, {"tied": True}], ids=["one", "shards", "tied"])
def test_a_directory_of_any_family_dtype_and_sharding(
    tmp_path: Path, kind: str, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    source = saved(tmp_path / "source", kind, dtype, **options)
    assert (source / safetensors.INDEX).exists() == ("shard" in options)
    night, base = registered(tmp_path / "fleet", "../source")
    pulled = pull(night.store, "tiny", "0", tmp_path / "pulled").path
    assert_same_model(pulled, source)
    index = json.loads(blobs.get(night.store, base.files[safetensors.INDEX].digest))["weight_map"]
    editable = [name for name in index if name.endswith(("down_proj.weight", "mlp.c_proj.weight"))]
    assert len(editable) == 3
    assert all(list(index.values()).count(index[name]) == 1 for name in editable)
    words = AutoTokenizer.from_pretrained(pulled)
    assert words("Ada Lovelace").input_ids == AutoTokenizer.from_pretrained(source)("Ada Lovelace").input_ids


def write_gguf(path: Path, model: Any) -> Path:
    """The tiny Llama as llama.cpp would have it: half-precision matrices, and its own vocabulary."""
    config, state = model.network.config, model.network.state_dict()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    bpe = json.loads(tokenizer().backend_tokenizer.to_str())["model"]
    known = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)
    spare = [f"<spare{n}>" for n in range(config.vocab_size - len(known))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(known + spare)
    writer.add_token_types([1] * config.vocab_size)
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in state.items():
        stem, _, end = name.rpartition(".")
        array = weight.to(torch.float32).numpy()
        kept = array.astype(np.float16) if array.ndim > 1 else array
        writer.add_tensor(f"{names.get_name(stem)}.{end}", kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_converted_once(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", tiny("llama", layers=3, dtype=torch.float32))
    night, base = registered(tmp_path / "fleet", "../tiny.gguf")
    pulled = pull(night.store, "tiny", "0", tmp_path / "pulled").path
    [converted] = (tmp_path / "cache" / "converted").iterdir()
    assert_same_model(pulled, converted)
    wanted = tiny("llama", layers=3, dtype=torch.float32).network.state_dict()
    name = "model.layers.1.mlp.down_proj.weight"
    torch.testing.assert_close(weights_of(pulled)[name], wanted[name].half().float(), rtol=0, atol=0)
    before = converted.stat().st_mtime_ns
    assert sources.resolve("tiny.gguf", root=tmp_path).stat().st_mtime_ns == before
    assert base.base["source"] == "../tiny.gguf"


def test_a_bucket(tmp_path: Path) -> None:
    """The store lies in the same S3, which is where it is said how that server is reached."""
    source = saved(tmp_path / "source", shard="30KB")
    port = free_port()
    binary("weed")
    (tmp_path / "weed").mkdir()
    server = serve(weed_command(tmp_path / "weed", port), f"http://127.0.0.1:{port}", tmp_path / "log")
    where = location(next(server), f"base-{secrets.token_hex(3)}")
    store = S3Store.connect(where)
    for path in source.iterdir():
        store.client.put_object(Bucket=BUCKET, Key=store.prefix + path.name, Body=path.read_bytes())
    (tmp_path / "fleet").mkdir()
    config = tmp_path / "fleet" / "fleet.toml"
    settings = where.model_copy(update={"url": f"s3://{BUCKET}/fleet"}).model_dump(exclude_none=True)
    text = FLEET.format(source=where.url).replace('url = "./store"', _toml(settings))
    config.write_text(text, encoding="utf-8")
    night = Night(open_fleet(config), "tiny", Intake({}, {}))
    base = register(night)
    pulled = pull(night.store, "tiny", "latest", tmp_path / "pulled").path
    assert_same_model(pulled, source)
    assert register(night) == base
    server.close()  # type: ignore[attr-defined]


def _toml(settings: dict[str, Any]) -> str:
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    from huggingface_hub import constants

    running = FakeHub()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(sources, "HUB_ENDPOINT", running.endpoint)
    yield running
    running.close()


def test_a_hub_id(tmp_path: Path, hub: FakeHub) -> None:
    source = saved(tmp_path / "source", shard="30KB")
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    hub.add("owner/tiny", files | {"pytorch_model.bin": b"stale", "README.md": b"# The base"})
    night, base = registered(tmp_path / "fleet", "owner/tiny")
    assert_same_model(pull(night.store, "tiny", "0", tmp_path / "pulled").path, source)
    assert "README.md" in base.files and "pytorch_model.bin" not in base.files


def test_a_hub_that_has_it_not_or_is_not_there_is_one_clear_line(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFoundError, match="the hub has no such model"):
        registered(tmp_path / "fleet", "owner/absent")
    monkeypatch.setattr(sources, "HUB_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SetupError, match="could not be fetched from the hub") as away:
        registered(tmp_path / "fleet", "owner/tiny")
    assert "local directory" in away.value.remedy


def test_a_source_that_is_nothing_says_what_can_be_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="source is not there") as absent:
        registered(tmp_path / "fleet", "./nowhere")
    assert "s3://" in absent.value.remedy


def test_release_0_is_signed_before_anybody_is_sent_to_it(tmp_path: Path) -> None:
    from made_keys import make_key

    saved(tmp_path / "source")
    make_key(tmp_path / "key.pem", "a password")
    (tmp_path / "fleet").mkdir()
    signing = '[signing]\nkey = "../key.pem"\npassword = "{}"\n'
    with pytest.raises(SetupError, match="signing key cannot be used"):
        registered(tmp_path / "fleet", "../source", signing.format("wrong"))
    night, base = registered(tmp_path / "fleet", "../source", signing.format("a password"))
    assert signatures.require(night.store, base, Keyring(trusted=[tmp_path / "key.pub"]))
    pull(night.store, "tiny", "latest", tmp_path / "pulled", keys=Keyring(trusted=[tmp_path / "key.pub"]))
