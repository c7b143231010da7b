"""A prefix that anything reads which reads Hugging Face directories: whole before anybody is sent to it."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from releases import EDITABLE, MODEL, checkpoint, raw, register, release, save, stage
from store_servers import BUCKET, DiesAtWrite, sent_bytes

from corrigenda.errors import UsageError
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import doctor, gc, layouts, manifests, publish, refs
from corrigenda.storage.releases.gc import Policy
from corrigenda.storage.releases.manifests import LAID_OUT

NOW = Policy(grace=timedelta(0))


@pytest.fixture
def base(local_store, tmp_path):
    return register(local_store, save(tmp_path / "base", checkpoint()))


def files_below(store, prefix: str) -> dict[str, bytes]:
    found = {info.key.removeprefix(prefix): store.get(info.key)[0] for info in store.list(prefix)}
    found.pop(LAID_OUT, None)
    return found


def wanted(store, made) -> dict[str, bytes]:
    return {path: blobs.get(store, ref.digest) for path, ref in made.files.items()}


@pytest.mark.parametrize("name", ["local_store", "weed_store", "moto_store"])
def test_a_prefix_holds_the_whole_release_and_nothing_is_uploaded(request, name, tmp_path):
    store = request.getfixturevalue(name)
    base = register(store, save(tmp_path / "base", checkpoint()))
    made = release(store, base, seed=7)

    class NoUploads:
        def __getattr__(self, method):
            assert method in {"get", "stat", "copy", "list", "url"}, method
            return getattr(store, method)

    assert not layouts.in_use(store, MODEL)
    prefix = layouts.assemble(NoUploads(), made)
    assert prefix == "hf/tiny/1/"
    assert files_below(store, prefix) == wanted(store, made)
    assert layouts.assemble(NoUploads(), made) == prefix
    assert layouts.is_whole(store, made) and layouts.in_use(store, MODEL)
    assert not layouts.is_whole(store, base)


def test_a_release_with_its_prefix_sends_no_more_than_what_changed(weed_store, tmp_path):
    """A checkpoint of 3 MB of which one shard of 64 kB changes: the bodies of all requests are counted."""
    tensors = checkpoint(shape=(64, 256)) | {"lm_head.weight": raw(1, (768, 1024))}
    base = register(weed_store, save(tmp_path / "base", tensors))
    layouts.assemble(weed_store, base)
    with sent_bytes(weed_store) as sent:
        made = release(weed_store, base, seed=7, shape=(64, 256))
        layouts.assemble(weed_store, made)
    shard = 4 * 64 * 256
    assert shard < sent[0] < shard + 20_000 < base.size / 30
    assert sum(info.size for info in weed_store.list("hf/tiny/1/")) > base.size
    with sent_bytes(weed_store) as again:
        layouts.assemble(weed_store, made)
    assert again[0] == 0


def test_a_reader_with_plain_boto3_finds_the_published_release(weed_store, tmp_path):
    """What `aws s3 cp` does: read the ref, copy the prefix."""
    base = register(weed_store, save(tmp_path / "base", checkpoint()))
    made = release(weed_store, base, seed=7)
    layouts.assemble(weed_store, made)
    client, root = weed_store.client, weed_store.prefix
    ref = client.get_object(Bucket=BUCKET, Key=f"{root}models/{MODEL}/refs/latest")["Body"].read()
    prefix = f"{root}hf/{MODEL}/{json.loads(ref)['release']}/"
    for entry in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]:
        target = tmp_path / "copied" / entry["Key"].removeprefix(prefix)
        target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(BUCKET, entry["Key"], str(target))
    copied = {
        path.relative_to(tmp_path / "copied").as_posix(): path.read_bytes()
        for path in (tmp_path / "copied").rglob("*")
        if path.is_file() and path.name != LAID_OUT
    }
    assert copied == wanted(weed_store, made)


def test_the_configuration_comes_last(local_store, base):
    copied = []

    class Watched:
        def __getattr__(self, method):
            return getattr(local_store, method)

        def copy(self, source, target):
            copied.append(target)
            local_store.copy(source, target)

    layouts.assemble(Watched(), base)
    assert copied[0] == f"hf/tiny/0/{LAID_OUT}" and copied[-1] == "hf/tiny/0/config.json"
    assert len(copied) == len(base.files) + 1


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_write_no_half_prefix_can_be_loaded_and_the_next_try_ends_it(
    tmp_path, after, monkeypatch
):
    monkeypatch.setattr(layouts, "_WORKERS", 1)
    directory = save(tmp_path / "base", checkpoint())
    deaths = 0
    for number in range(100):
        store = LocalStore.open(tmp_path / f"store{number}{after}", create=True)
        made = release(store, register(store, directory), seed=7)
        stale = manifests.to_bytes(made).replace(b'"tiny"', b'"tinY"')  # an abandoned candidate's leftovers
        for name, body in {
            LAID_OUT: stale,
            "config.json": b"{}",
            "model-00002-of-00004.safetensors": b"",
        }.items():
            store.create(f"hf/tiny/1/{name}", body)
        try:
            layouts.assemble(DiesAtWrite(store, number, after), made)
            break
        except DiesAtWrite.Death:
            deaths += 1
        found = files_below(store, "hf/tiny/1/")
        if found.get("config.json") not in (None, b"{}"):
            assert found == wanted(store, made)
        layouts.assemble(store, made)
        assert files_below(store, "hf/tiny/1/") == wanted(store, made)
    assert deaths >= 10


def test_an_abandoned_candidates_files_are_no_part_of_the_next_release_of_its_number(local_store, base):
    abandoned = stage(local_store, base, {EDITABLE[0]: raw(3)}, parent=base)
    layouts.assemble(local_store, abandoned)
    local_store.delete(manifests.key(MODEL, abandoned.number))
    made = release(local_store, base, seed=7)
    assert made.number == abandoned.number and not layouts.is_whole(local_store, made)
    layouts.assemble(local_store, made)
    assert files_below(local_store, "hf/tiny/1/") == wanted(local_store, made)


def test_a_base_whose_own_file_has_the_manifests_name_is_refused(local_store, base):
    odd = base.__class__(**{name: getattr(base, name) for name in base.__slots__} | {"files": {LAID_OUT: 1}})
    with pytest.raises(UsageError, match="needed for the layout"):
        layouts.assemble(local_store, odd)


def test_a_rollback_lays_the_older_release_out_before_the_ref_moves(local_store, base):
    first, second = release(local_store, base, seed=1), release(local_store, base, seed=2)
    publish.rollback(local_store, MODEL, to=1)
    assert not layouts.in_use(local_store, MODEL)  # nobody reads prefixes here: none is made
    publish.rollback(local_store, MODEL, to=2)
    layouts.assemble(local_store, second)
    publish.rollback(local_store, MODEL, to=1)
    assert layouts.is_whole(local_store, first)


def test_gc_keeps_the_prefixes_that_refs_point_to_and_removes_old_ones_config_first(local_store, base):
    made = [release(local_store, base, seed) for seed in (1, 2)]
    for one in (base, *made):
        layouts.assemble(local_store, one)
    then = time.time() - 30 * 86400
    for info in local_store.list(""):
        os.utime(local_store.root / info.key, (then, then))
    keys = [info.key for info in gc.plan(local_store, NOW).doomed if info.key.startswith("hf/")]
    assert {key.rsplit("/", 1)[0].removesuffix("/templates") for key in keys} == {"hf/tiny/0", "hf/tiny/1"}
    for number in (0, 1):
        assert next(k for k in keys if k.startswith(f"hf/tiny/{number}/")).endswith("/config.json")
    # `latest` left release 1 just now, so that its readers may still be at it.
    young = {info.key.split("/")[2] for info in gc.plan(local_store, Policy()).doomed if "hf/" in info.key}
    assert "1" not in young and "2" not in young
    gc.collect(local_store, NOW)
    assert layouts.is_whole(local_store, made[1]) and list(local_store.list("hf/tiny/1/")) == []
    publish.rollback(local_store, MODEL, to=1)
    assert layouts.is_whole(local_store, made[0])


def test_gc_leaves_alone_what_somebody_else_keeps_there(local_store, base):
    local_store.create("hf/notes.txt", b"mine")
    local_store.create("hf/tiny/readme", b"mine")
    time.sleep(0.01)
    assert not [info for info in gc.plan(local_store, NOW).doomed if info.key.startswith("hf/")]


def test_the_doctor_names_a_published_release_that_is_not_whole_for_other_readers(local_store, base):
    layouts.assemble(local_store, base)
    made = release(local_store, base, seed=1)
    [fault] = [found for found in doctor.examine(local_store) if found.level == "fault"]
    assert fault.subject == "hf/tiny/1/" and "--layout hf" in fault.remedy
    layouts.assemble(local_store, made)
    assert not [found for found in doctor.examine(local_store) if found.level == "fault"]
    assert refs.require(local_store, MODEL, "latest").release == 1


def test_a_prefix_loads_by_the_loaders_own_rules(local_store, base):
    """Every tensor of the index is in the file that the index names, and in no other."""
    tensors = pytest.importorskip("safetensors")
    root = Path(local_store.root / layouts.assemble(local_store, base))
    index = json.loads((root / "model.safetensors.index.json").read_text())["weight_map"]
    found = {}
    for name in sorted(set(index.values())):
        with tensors.safe_open(root / name, "np") as shard:
            found |= dict.fromkeys(shard.keys(), name)
    assert found == index
