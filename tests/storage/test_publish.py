"""Bases, candidates, promotion, rollback."""

from __future__ import annotations

import json
import shutil

import pytest
from releases import EDITABLE, LAYERS, MODEL, checkpoint, raw, register, release, save, stage
from store_servers import DiesAtWrite

from corrigenda.errors import CorruptBlobError, LostRaceError, NotFoundError, SetupError, UsageError
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import history, lease, manifests, publish, refs, safetensors
from corrigenda.storage.releases.publish import Candidate
from corrigenda.storage.releases.safetensors import RawTensor


@pytest.fixture
def directory(tmp_path):
    return save(tmp_path / "base", checkpoint())


def test_a_base_keeps_every_tensor_and_every_file(local_store, directory):
    base = register(local_store, directory)
    assert {"config.json", "tokenizer.json", "templates/chat.jinja", safetensors.INDEX} <= set(base.files)
    assert {name: publish.read_tensor(local_store, base, name) for name in checkpoint()} == checkpoint()
    assert (
        blobs.get(local_store, base.files["config.json"].digest) == (directory / "config.json").read_bytes()
    )


def test_each_editable_tensor_has_a_shard_of_its_own(local_store, directory):
    base = register(local_store, directory)
    index = json.loads(blobs.get(local_store, base.files[safetensors.INDEX].digest))["weight_map"]
    assert sorted(index) == sorted(checkpoint())
    for name in EDITABLE:
        assert list(index.values()).count(index[name]) == 1
    assert len(set(index.values())) == LAYERS + 1


def test_sharded_and_single_files_give_the_same_release(local_store, tmp_path, directory):
    sharded = save(tmp_path / "sharded", checkpoint(), 3)
    assert register(local_store, directory).files == register(local_store, sharded, "other").files


def test_other_tensors_are_split_by_size(local_store, directory):
    base = publish.register_base(
        local_store, MODEL, directory, source="x", editable=EDITABLE[:1], shard_bytes=1500
    )
    index = json.loads(blobs.get(local_store, base.files[safetensors.INDEX].digest))["weight_map"]
    assert len(set(index.values())) == 5
    assert {name: publish.read_tensor(local_store, base, name) for name in checkpoint()} == checkpoint()


def test_weights_of_other_formats_and_hidden_files_stay_behind(local_store, directory):
    for name in ("pytorch_model.bin", "model.onnx", ".gitattributes", "pytorch_model.bin.index.json"):
        (directory / name).write_text("x")
    (directory / ".cache").mkdir()
    (directory / ".cache" / "x").write_text("x")
    assert set(register(local_store, directory).files) == {
        "config.json", "tokenizer.json", "templates/chat.jinja", safetensors.INDEX,
        *(f"model-0000{n}-of-00004.safetensors" for n in range(1, 5)),
    }  # fmt: skip


def test_registering_twice_is_registering_once(local_store, directory):
    first = register(local_store, directory)
    before = sorted(info.key for info in local_store.list(""))
    assert register(local_store, directory) == first
    assert sorted(info.key for info in local_store.list("")) == before


def test_a_name_belongs_to_one_base(local_store, tmp_path, directory):
    register(local_store, directory)
    with pytest.raises(UsageError, match="belongs to another base"):
        register(local_store, save(tmp_path / "other", checkpoint(seed=9)))


def test_a_registration_that_was_killed_before_its_ref_is_finished(local_store, directory):
    first = register(local_store, directory)
    local_store.delete(refs.key(MODEL, "latest"))
    assert register(local_store, directory) == first
    assert refs.require(local_store, MODEL, "latest").manifest == first.digest


def test_an_editable_tensor_that_is_not_there_is_named(local_store, directory):
    with pytest.raises(NotFoundError, match=r"model\.layers\.9"):
        publish.register_base(local_store, MODEL, directory, source="x", editable=["model.layers.9.w"])


def test_a_release_changes_one_file(local_store, directory):
    base = register(local_store, directory)
    before = {info.key for info in local_store.list("blobs/")}
    first = release(local_store, base, seed=7)
    changed = [path for path in base.files if base.files[path] != first.files[path]]
    assert len(changed) == 1 and set(first.files) == set(base.files)
    assert publish.read_tensor(local_store, first, EDITABLE[1]) == raw(7)
    assert first.parent == base.digest and first.number == 1 and first.base == base.base
    new = {info.key for info in local_store.list("blobs/")} - before
    # The shard, the manifest, and the ref that `latest` was before.
    assert len(new) == 3


def test_the_bases_own_tensor_gives_back_the_bases_bytes(local_store, directory):
    base = register(local_store, directory)
    first = release(local_store, base, seed=7)
    back = stage(local_store, base, {EDITABLE[1]: checkpoint()[EDITABLE[1]]}, parent=first)
    assert back.files == base.files and back.number == 2


def test_what_is_unchanged_is_not_published_again(local_store, directory):
    base = register(local_store, directory)
    first = release(local_store, base, seed=7)
    before = stored(local_store)
    candidate = Candidate(layer=1, settings={"seed": 7})
    assert stage(local_store, base, {EDITABLE[1]: raw(7)}, candidate, parent=first) is first
    assert stored(local_store) == before


def stored(store):
    """All that is in a store, but for the lease, which every writer takes."""
    keys = (info.key for info in store.list("") if info.key != lease.key(MODEL))
    return {key: store.get(key) for key in keys}


@pytest.mark.parametrize(
    "wrong", [raw(1, (16, 8)), raw(1, (8, 8)), raw(1, (8, 32), "BF16"), raw(1, (8, 16), "F16")]
)
def test_a_tensor_of_another_shape_or_dtype_is_refused(local_store, directory, wrong: RawTensor):
    base = register(local_store, directory)
    with pytest.raises(UsageError, match="dtype and shape"):
        stage(local_store, base, {EDITABLE[1]: wrong}, parent=base)


def test_a_tensor_that_shares_its_shard_is_refused(local_store, directory):
    base = register(local_store, directory)
    name = "model.layers.0.self_attn.o_proj.weight"
    with pytest.raises(UsageError, match="shard of its own"):
        stage(local_store, base, {name: raw(1)}, parent=base)


def test_a_candidate_is_canary_until_it_is_promoted(local_store, directory):
    base = register(local_store, directory)
    seen = refs.read(local_store, MODEL, "latest")
    staged = stage(local_store, base, {EDITABLE[0]: raw(3)}, Candidate(layer=0), parent=base)
    assert refs.require(local_store, MODEL, "canary").manifest == staged.digest
    assert refs.require(local_store, MODEL, "latest").manifest == base.digest
    publish.promote(local_store, staged, seen=seen)
    assert refs.require(local_store, MODEL, "latest").manifest == staged.digest
    assert [r.number for r in history.of_model(local_store, MODEL)] == [1, 0]
    with pytest.raises(LostRaceError):
        publish.promote(local_store, staged.__class__(**{**fields(staged), "number": 5}), seen=seen)


def fields(release):
    return {name: getattr(release, name) for name in release.__slots__}


def test_rollback_moves_the_ref_and_is_recorded(local_store, directory):
    base = register(local_store, directory)
    for seed in (1, 2, 3):
        release(local_store, base, seed)
    rolled, seen = publish.rollback(local_store, MODEL, to=1, reason="answers in French")
    assert rolled.number == 1 and seen.ref.reason == "rolled back from 3 to 1: answers in French"
    assert [r.release for r in refs.log(local_store, MODEL, "latest")] == [1, 3, 2, 1, 0]
    # What was published once may come back, although it is no ancestor now.
    assert publish.rollback(local_store, MODEL, to=3)[0].number == 3
    assert publish.rollback(local_store, MODEL, to=3)[1] == refs.read(local_store, MODEL, "latest")
    publish.rollback(local_store, MODEL, to=1)
    assert release(local_store, base, 9).number == 4


def test_a_candidate_that_was_never_published_is_no_place_to_roll_back_to(local_store, directory):
    base = register(local_store, directory)
    stage(local_store, base, {EDITABLE[0]: raw(3)}, parent=base)
    with pytest.raises(NotFoundError, match="never published"):
        publish.rollback(local_store, MODEL, to=1)
    with pytest.raises(NotFoundError, match="no such release"):
        publish.rollback(local_store, MODEL, to=8)


def test_provenance_names_what_went_in_and_what_came_out(local_store, directory):
    base = register(local_store, directory)
    first = release(local_store, base, seed=7)
    [subject] = first.provenance["subject"]
    assert subject["digest"]["sha256"] == first.files[subject["name"]].digest
    definition = first.provenance["predicate"]["buildDefinition"]
    named = {entry["name"]: entry["digest"]["sha256"] for entry in definition["resolvedDependencies"]}
    assert named["parent"] == base.digest and named["base/weights"] == base.base["weights_digest"]
    assert first.provenance["_type"] == "https://in-toto.io/Statement/v1"


def test_a_damaged_stored_shard_is_noticed(local_store, directory):
    base = register(local_store, directory)
    for path, ref in base.files.items():
        if path.endswith(".safetensors"):
            (local_store.root / blobs.key(ref.digest)).write_bytes(b"x" * ref.size)
    with pytest.raises(CorruptBlobError):
        publish.read_tensor(local_store, base, EDITABLE[0])


def test_a_store_that_overwrites_is_refused_before_anything_is_published(local_store, directory):
    class Overwrites:
        def __getattr__(self, name):
            return getattr(local_store, name)

        def create(self, key, body):
            (local_store.root / key).parent.mkdir(parents=True, exist_ok=True)
            (local_store.root / key).write_bytes(body)
            return local_store.get(key)[1]

    with pytest.raises(SetupError, match="ignores conditional writes"):
        register(Overwrites(), directory)
    assert list(local_store.list("")) == []
    shutil.rmtree(local_store.root)


@pytest.mark.parametrize("after", [False, True])
def test_a_publisher_that_dies_at_any_write_leaves_the_old_or_the_new_release(tmp_path, directory, after):
    """Every step boundary of a registration and of a release; the second try always succeeds."""
    crashes = 0
    for number in range(100):
        store = LocalStore.open(tmp_path / f"store{number}{after}", create=True)
        mortal = DiesAtWrite(store, number, after)
        try:
            release(mortal, register(mortal, directory), seed=7)
        except DiesAtWrite.Death:
            crashes += 1
        else:
            break
        head = refs.read(store, MODEL, "latest").ref
        if head is not None:
            for ref in manifests.by_digest(store, head.manifest).blobs:
                blobs.get(store, ref.digest)
        finished = release(store, register(store, directory), seed=7)
        assert refs.require(store, MODEL, "latest").manifest == finished.digest
        assert publish.read_tensor(store, finished, EDITABLE[1]) == raw(7)
        chain = [found.number for found in history.of_model(store, MODEL)]
        assert chain[-1] == 0 and len(chain) <= 2 + (head is not None and head.release > 0)
    assert crashes >= 15
