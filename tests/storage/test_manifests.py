"""Manifests: deterministic, and read with suspicion."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corrigenda.errors import CorruptBlobError, NotFoundError, SetupError, UsageError
from corrigenda.facts import sha256_hex
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.objects.cache import Cache
from corrigenda.storage.releases import history, manifests
from corrigenda.storage.releases.manifests import Release

REF = BlobRef(sha256_hex(b"x"), 1)


def release(**changes) -> Release:
    plain = {
        "model": "m",
        "number": 0,
        "files": {"config.json": REF},
        "created_at": "2026-01-01T00:00:00+00:00",
    }
    return Release(**(plain | changes))


def body(**changes) -> bytes:
    """A manifest with some of its JSON replaced, in canonical form otherwise."""
    plain = json.loads(manifests.to_bytes(release())) | changes
    return json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def test_the_bytes_are_pinned():
    pinned = "86b42ca7468bf168f73d0773b0907773ecabacb74b05686a0cd7b19da0a63f70"
    assert release(layer=3, settings={"b": 1, "a": "é"}).digest == pinned


def test_a_manifest_is_read_back_as_it_was_written():
    full = release(
        number=7, parent="a" * 64, ledger=REF, consumed=REF, layer=2, gates={"x": 0.5}, counts={"n": 1}
    )
    assert manifests.from_bytes(manifests.to_bytes(full)) == full


def test_the_order_of_files_does_not_matter():
    files = {"b": REF, "a": REF}
    swapped = dict(reversed(files.items()))
    assert manifests.to_bytes(release(files=files)) == manifests.to_bytes(release(files=swapped))


HOSTILE = [
    "../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "..", "", "C:\\x", "a\\..\\b", "c:x",
    "a\nb", "a\0b",
    ".corrigenda/x", ".CORRIGENDA/x", " a", "a ", "a/ b", "x" * 600, "a\u202eb", "con|", "~/\x7f",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_a_path_that_could_leave_the_directory_is_refused(path):
    with pytest.raises(CorruptBlobError, match="is not allowed"):
        manifests.from_bytes(body(files={path: REF.to_json()}))


@pytest.mark.parametrize("files", [{"A": 1, "a": 1}, {"a": 1, "a/b": 1}, {"x/Y": 1, "x/y": 1}])
def test_names_that_collide_on_disk_are_refused(files):
    with pytest.raises(CorruptBlobError, match="not acceptable"):
        manifests.from_bytes(body(files=dict.fromkeys(files, REF.to_json())))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"}, {"number": -1}, {"number": True}, {"number": "1"}, {"model": "../x"},
        {"model": 3}, {"parent": "x"}, {"layer": "1"}, {"files": []}, {"files": {"a": {}}},
        {"files": {"a": None}}, {"files": {"a": {"digest": REF.digest, "size": -1}}},
        {"files": {"a": {"digest": "A" * 64, "size": 1}}},
        {"files": {"a": {"digest": REF.digest, "size": 1.0}}}, {"ledger": {"digest": "x", "size": 1}},
        {"settings": []}, {"created_at": None},
        {"files": {"a": {"digest": REF.digest, "size": 1, "link": "/etc/passwd"}}},
    ],
)  # fmt: skip
def test_a_hostile_manifest_is_refused(changes):
    with pytest.raises(CorruptBlobError, match="not acceptable"):
        manifests.from_bytes(body(**changes))


def test_a_newer_format_asks_for_an_upgrade_and_is_called_no_forgery():
    with pytest.raises(SetupError, match="written by a newer corrigenda"):
        manifests.from_bytes(body(format="corrigenda-release-2", shape="unheard of"))


def test_keys_of_a_later_version_of_the_same_format_are_kept():
    written = body(unknown={"a": [1]})
    assert manifests.to_bytes(manifests.from_bytes(written)) == written


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_and_never_a_traceback(junk):
    with pytest.raises(CorruptBlobError):
        manifests.from_bytes(junk)


def test_a_deep_nesting_is_refused():
    with pytest.raises(CorruptBlobError):
        manifests.from_bytes(b"[" * 100_000)


def test_a_taken_number_gives_the_next_one(local_store):
    first = manifests.write(local_store, release())
    again = manifests.write(local_store, release())
    other = manifests.write(local_store, release(created_at="later"))
    assert (first.number, again.number, other.number) == (0, 0, 1)
    assert manifests.read(local_store, "m", 1) == other == manifests.by_digest(local_store, other.digest)
    assert manifests.numbers(local_store, "m") == [0, 1] and manifests.models(local_store) == ["m"]


def test_what_is_not_there_is_not_found(local_store):
    with pytest.raises(NotFoundError, match="no such release"):
        manifests.read(local_store, "m", 3)
    with pytest.raises(NotFoundError):
        list(history.of_model(local_store, "m"))
    with pytest.raises(UsageError):
        manifests.read(local_store, "../m", 3)


def test_every_damaged_byte_of_a_numbered_manifest_is_noticed(local_store):
    manifests.write(local_store, release())
    path = local_store.root / manifests.key("m", 0)
    good = path.read_bytes()
    for place in range(0, len(good), 7):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(CorruptBlobError):
            manifests.read(local_store, "m", 0)


def test_another_models_manifest_under_this_name_is_noticed(local_store):
    written = manifests.write(local_store, release(model="other"))
    local_store.create(manifests.key("m", 0), manifests.to_bytes(written))
    with pytest.raises(CorruptBlobError, match="another release"):
        manifests.read(local_store, "m", 0)


def test_a_manifest_of_release_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        release().number = 3


def test_putting_twice_is_putting_once(local_store):
    assert blobs.put(local_store, b"x") == blobs.put(local_store, b"x") == REF
    assert len(list(local_store.list("blobs/"))) == 1


def test_a_damaged_blob_is_never_handed_out(local_store, tmp_path):
    blobs.put(local_store, b"good")
    ref = BlobRef(sha256_hex(b"good"), 4)
    (local_store.root / blobs.key(ref.digest)).write_bytes(b"evil")
    with pytest.raises(CorruptBlobError):
        blobs.get(local_store, ref.digest)
    with pytest.raises(CorruptBlobError):
        blobs.fetch(local_store, ref, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert blobs.heal(local_store, b"good") == ref and blobs.get(local_store, ref.digest) == b"good"


def test_a_cache_answers_what_it_was_told(local_store):
    assert Cache(local_store).lookup("edits", "k") is None
    Cache(local_store).remember("edits", "k", b"1")
    Cache(local_store).remember("edits", "k", b"2")
    assert Cache(local_store).lookup("edits", "k") == b"2"
    assert Cache(local_store).lookup("scores", "k") is None


def test_a_damaged_cache_entry_is_unknown_and_mends(local_store):
    Cache(local_store).remember("edits", "k", b"good")
    (local_store.root / blobs.key(sha256_hex(b"good"))).write_bytes(b"evil")
    assert Cache(local_store).lookup("edits", "k") is None
    Cache(local_store).remember("edits", "k", b"good")
    assert Cache(local_store).lookup("edits", "k") == b"good"
    (local_store.root / "cache/edits/k").write_bytes(b"{")
    assert Cache(local_store).lookup("edits", "k") is None
    Cache(local_store).remember("edits", "k", b"good")
    assert Cache(local_store).lookup("edits", "k") == b"good"


def test_packs_of_a_scope_collect(local_store):
    for pack in (b"1", b"2", b"2"):
        Cache(local_store).remember_pack("edits", "s", pack)
    assert sorted(Cache(local_store).lookup_packs("edits", "s")) == [b"1", b"2"]
    (local_store.root / blobs.key(sha256_hex(b"1"))).unlink()
    assert Cache(local_store).lookup_packs("edits", "s") == [b"2"]
    assert Cache(local_store).lookup_packs("edits", "other") == []


def test_a_release_names_the_layers_of_its_band_and_an_old_one_its_only_layer():
    made = Release(model="m", number=1, files={}, created_at="", layer=4)
    assert made.layers == (4,)
    assert dataclasses.replace(made, settings={"editing": {"layers": [3, 4, 5]}}).layers == (3, 4, 5)
    for junk in ("3", [], ["3"], [True], None):
        assert dataclasses.replace(made, settings={"editing": {"layers": junk}}).layers == (4,)
    assert dataclasses.replace(made, layer=None).layers == ()
