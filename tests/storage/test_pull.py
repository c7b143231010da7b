"""Pull: the right bytes whatever happens on the way, and never half a release."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from releases import MODEL, checkpoint, register, release, save
from store_servers import CuttingProxy, location, scaled

from corrigenda.errors import (
    CorrigendaError,
    CorruptBlobError,
    NotFoundError,
    SetupError,
    StorageError,
    UsageError,
)
from corrigenda.facts import sha256_hex
from corrigenda.storage.delivery import download
from corrigenda.storage.delivery.pull import check, parse_target, pull, resolve
from corrigenda.storage.objects import blobs, ranges
from corrigenda.storage.objects.s3 import S3Store
from corrigenda.storage.releases import doctor, layouts, manifests, publish, refs
from corrigenda.storage.releases.manifests import RESERVED, Release
from corrigenda.storage.releases.refs import Ref, Seen


@pytest.fixture
def base(local_store, tmp_path):
    return register(local_store, save(tmp_path / "base", checkpoint()))


def bytes_of(directory):
    """All files of a pulled directory but its manifest."""
    root = directory.resolve()
    found = (path for path in root.rglob("*") if path.is_file())
    names = {path.relative_to(root).as_posix(): path.read_bytes() for path in found}
    return {name: body for name, body in names.items() if not name.startswith(RESERVED)}


def stored(store, wanted: Release):
    return {path: blobs.get(store, ref.digest) for path, ref in wanted.files.items()}


def test_a_pulled_directory_is_the_release(local_store, base, tmp_path):
    done = pull(local_store, MODEL, "latest", tmp_path / "dest")
    assert bytes_of(tmp_path / "dest") == stored(local_store, base)
    assert (done.downloaded, done.reused, done.release) == (base.size, 0, base)
    assert check(tmp_path / "dest").faults == ()


def test_only_what_is_missing_travels(local_store, base, tmp_path):
    pull(local_store, MODEL, "latest", tmp_path / "dest")
    first = release(local_store, base, seed=7)
    [changed] = [path for path in base.files if base.files[path] != first.files[path]]
    done = pull(local_store, MODEL, "latest", tmp_path / "dest")
    assert done.downloaded == first.files[changed].size
    assert bytes_of(tmp_path / "dest") == stored(local_store, first)
    again = pull(local_store, MODEL, "latest", tmp_path / "dest")
    assert again.was_current and again.downloaded == 0
    # The way back costs nothing: the release before is still beside it.
    assert pull(local_store, MODEL, "0", tmp_path / "dest").downloaded == 0
    assert bytes_of(tmp_path / "dest") == stored(local_store, base)


def test_a_pull_of_what_is_there_removes_what_a_killed_one_left(local_store, base, tmp_path):
    pull(local_store, MODEL, "latest", tmp_path / "dest")
    side = tmp_path / ".dest.corrigenda"
    (side / "building-0" / "part").mkdir(parents=True)
    (side / "building-1").symlink_to("release-0")
    assert pull(local_store, MODEL, "latest", tmp_path / "dest").was_current
    assert list(side.glob("building-*")) == []


def test_destinations_share_a_cache(local_store, base, tmp_path):
    cache = tmp_path / "cache"
    pull(local_store, MODEL, "0", tmp_path / "one", cache)
    assert pull(local_store, MODEL, "0", tmp_path / "two", cache).downloaded == 0
    one, two = ((tmp_path / name / "config.json").stat().st_ino for name in ("one", "two"))
    assert one == two
    shutil.rmtree(cache)
    release(local_store, base, seed=1)
    done = pull(local_store, MODEL, "latest", tmp_path / "one", cache)
    assert done.downloaded < base.size / 2


def test_a_shared_cache_does_not_grow_by_a_tensor_a_night(local_store, base, tmp_path):
    cache, sizes = tmp_path / "cache", []
    for night in range(5):
        release(local_store, base, seed=night)
        pull(local_store, MODEL, "latest", tmp_path / "dest", cache)
        blobs = list((cache / "blobs").iterdir())
        sizes.append(len(blobs))
        for path in blobs:  # a day and more passes
            os.utime(path, (path.stat().st_atime - 90_000, path.stat().st_mtime))
    assert sizes[-1] == sizes[-2] == sizes[-3]
    shutil.rmtree(tmp_path / "dest", ignore_errors=True)
    assert pull(local_store, MODEL, "latest", tmp_path / "other", cache).downloaded == 0


def test_without_hard_links_it_copies(local_store, base, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError("no links here")

    monkeypatch.setattr(download.os, "link", refuse)
    store = S3Like(local_store)
    pull(store, MODEL, "0", tmp_path / "dest", tmp_path / "cache")
    assert bytes_of(tmp_path / "dest") == stored(local_store, base)


class S3Like:
    """A store through which reads can be made to fail."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)


def test_refs_numbers_and_canary_resolve(local_store, base):
    first = release(local_store, base, seed=7)
    assert resolve(local_store, MODEL, "latest") == resolve(local_store, MODEL, "1") == first
    assert resolve(local_store, MODEL, "canary") == first and resolve(local_store, MODEL, "0") == base
    with pytest.raises(UsageError, match="no ref"):
        resolve(local_store, MODEL, "newest")
    with pytest.raises(NotFoundError):
        resolve(local_store, "unknown", "latest")
    assert parse_target("a@3") == ("a", "3") and parse_target("a") == ("a", "latest")
    with pytest.raises(UsageError):
        parse_target("../a")


def test_somebody_elses_directory_is_never_replaced(local_store, base, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "x").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(foreign)
    for name in ("foreign", "file", "link"):
        with pytest.raises(UsageError, match="not made by"):
            pull(local_store, MODEL, "0", tmp_path / name)
    assert (foreign / "x").read_text() == (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    pull(local_store, MODEL, "0", tmp_path / "empty")
    with pytest.raises(NotFoundError, match="not made by"):
        check(foreign)


def test_a_reader_never_sees_a_mixture(local_store, base, tmp_path):
    """While releases change under it, every resolved directory is one release and whole."""
    dest = tmp_path / "dest"
    releases = [base, *(release(local_store, base, seed, layer=seed % 3) for seed in range(1, 4))]
    wanted = {r.number: stored(local_store, r) for r in releases}
    pull(local_store, MODEL, "0", dest)
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            root = dest.resolve()
            number = int(root.name.split("-")[1])
            seen.append(bytes_of(root) == wanted[number])

    reader = threading.Thread(target=read)
    reader.start()
    for number in [1, 2, 3, 0, 3, 1] * scaled(2):
        pull(local_store, MODEL, str(number), dest)
        time.sleep(0.05)
    stop.set()
    reader.join()
    assert len(seen) > 5 and all(seen)


def test_a_damaged_local_copy_is_found_and_mended(local_store, base, tmp_path):
    dest = tmp_path / "dest"
    pull(local_store, MODEL, "0", dest)
    path = dest / "config.json"
    path.chmod(0o644)
    path.write_text("x" * base.files["config.json"].size)
    (dest / "extra.safetensors").write_text("x")
    assert check(dest).faults == (
        "config.json: its bytes differ from the manifest",
        "extra.safetensors: does not belong to the release",
    )
    done = pull(local_store, MODEL, "0", dest)
    assert not done.was_current and check(dest).faults == ()


def test_decay_that_left_the_clock_alone_is_mended_on_demand(local_store, base, tmp_path):
    dest = tmp_path / "dest"
    pull(local_store, MODEL, "0", dest)
    path = dest / "config.json"
    before = path.stat()
    path.chmod(0o644)
    path.write_text("x" * base.files["config.json"].size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert pull(local_store, MODEL, "0", dest).was_current
    assert check(dest).faults
    pull(local_store, MODEL, "0", dest, repair=True)
    assert check(dest).faults == ()


def test_links_and_missing_files_are_faults(local_store, base, tmp_path):
    dest = tmp_path / "dest"
    pull(local_store, MODEL, "0", dest)
    (dest / "config.json").rename(tmp_path / "config.json")
    (dest / "config.json").symlink_to(tmp_path / "config.json")
    (dest / "tokenizer.json").unlink()
    assert set(check(dest).faults) == {"config.json: is a link", "tokenizer.json: is missing"}


@contextmanager
def damaged(path: Path, draw: random.Random):
    """A random bit of a random byte is wrong for the length of the block; written in place, as decay does."""
    with path.open("r+b", buffering=0) as file:
        place, bit = draw.randrange(path.stat().st_size), 1 << draw.randrange(8)
        file.seek(place)
        good = file.read(1)

        def put(byte: int) -> None:
            file.seek(place)
            file.write(bytes([byte]))

        put(good[0] ^ bit)
        yield place
        put(good[0])


def test_every_damaged_byte_of_a_pulled_directory_is_found(local_store, base, tmp_path):
    dest = tmp_path / "dest"
    pull(local_store, MODEL, "0", dest)
    draw = random.Random(0)
    files = sorted(path for path in dest.resolve().rglob("*") if path.is_file())
    for path in files:
        path.chmod(0o644)
    for _ in range(scaled(300)):
        path = draw.choice(files)
        with damaged(path, draw) as place:
            assert noticed(lambda: check(dest).faults), (path, place)
    assert check(dest).faults == ()


def test_every_damaged_byte_of_a_store_is_noticed_before_anything_switches(local_store, base, tmp_path):
    """All that a pull of `latest` reads: the ref, the manifest behind it, and every file of the release."""
    release(local_store, base, seed=7)
    dest = tmp_path / "dest"
    pull(local_store, MODEL, "0", dest)
    before = bytes_of(dest)
    draw = random.Random(0)
    head = resolve(local_store, MODEL, "latest")
    keys = [refs.key(MODEL, "latest"), blobs.key(head.digest)]
    keys += [blobs.key(ref.digest) for ref in head.files.values()]
    for _ in range(scaled(200)):
        with damaged(local_store.root / draw.choice(keys), draw) as place:
            shutil.rmtree(tmp_path / ".fresh.corrigenda", ignore_errors=True)
            with pytest.raises(CorruptBlobError):
                pull(local_store, MODEL, "latest", tmp_path / "fresh")
            assert not (tmp_path / "fresh").exists(), place
    assert bytes_of(dest) == before


def test_every_damaged_byte_of_a_store_is_found_by_the_doctor(local_store, base):
    """Any file: refs, their history, manifests by digest and by number, all blobs, the copies for others.

    Not the lease, which nobody holds: whatever its bytes are, the next one takes it.
    """
    made = [release(local_store, base, seed) for seed in (7, 8)]
    layouts.assemble(local_store, made[-1])
    draw = random.Random(1)
    keys = [info.key for info in local_store.list("") if not info.key.endswith("/lease")]
    files = [local_store.root / key for key in keys]
    assert len(files) > 25
    for _ in range(scaled(60)):
        path = draw.choice(files)
        with damaged(path, draw) as place:
            assert faults_of(local_store), (path, place)
    assert not faults_of(local_store)


def faults_of(store) -> list[str]:
    """What the doctor finds when it reads everything."""
    return [found.what for found in doctor.examine(store, deep=True) if found.level == "fault"]


def noticed(look) -> bool:
    try:
        return bool(look())
    except CorruptBlobError:
        return True


def test_a_wrong_beginning_is_thrown_away(local_store, base, tmp_path):
    side = tmp_path / ".dest.corrigenda"
    (side / "partial").mkdir(parents=True)
    for ref in base.files.values():
        (side / "partial" / ref.digest).write_bytes(b"x" * min(ref.size + 3, 50))
    pull(local_store, MODEL, "0", tmp_path / "dest")
    assert bytes_of(tmp_path / "dest") == stored(local_store, base)


def test_a_beginning_is_gone_on_with(local_store, base, tmp_path):
    side = tmp_path / ".dest.corrigenda"
    (side / "partial").mkdir(parents=True)
    for ref in base.files.values():
        (side / "partial" / ref.digest).write_bytes(blobs.get(local_store, ref.digest)[: ref.size // 2])
    done = pull(local_store, MODEL, "0", tmp_path / "dest")
    assert done.downloaded == sum(ref.size - ref.size // 2 for ref in base.files.values())
    assert bytes_of(tmp_path / "dest") == stored(local_store, base)


@pytest.fixture
def short_spans(monkeypatch):
    """Many small ranges, so that a small model is cut in many places."""
    monkeypatch.setattr(ranges, "_SPAN", 4096)
    monkeypatch.setattr(ranges, "_PAUSE_S", 0.001)


def test_downloads_that_are_cut_end_with_the_right_bytes(weed_endpoint, weed_store, tmp_path, short_spans):
    """The line is cut at a random byte, again and again; whoever gives up is started again."""
    tensors = checkpoint(shape=(64, 512))
    base = register(weed_store, save(tmp_path / "base", tensors))
    for round_ in range(scaled(4)):
        proxy = CuttingProxy(weed_endpoint, cuts=25, most=60_000, seed=round_)
        attempts = 0
        while True:
            try:
                prefix = weed_store.prefix
                store = S3Store.connect(location(proxy.endpoint, prefix))
                pull(store, MODEL, "latest", tmp_path / f"dest{round_}")
                break
            except StorageError as fault:
                assert fault.retryable
                attempts += 1
                assert attempts < 50
        assert proxy.done == 25
        assert check(tmp_path / f"dest{round_}").faults == ()
        assert bytes_of(tmp_path / f"dest{round_}") == stored(weed_store, base)
        proxy.close()


def test_a_store_that_answers_short_or_fails_now_and_then_gives_the_right_bytes(
    local_store, base, tmp_path, short_spans
):
    class Shaky(S3Like):
        draw = random.Random(0)

        def read_into(self, key, start, view):
            dice = self.draw.random()
            if dice < 0.2:
                raise StorageError("the store does not answer", remedy="Try again")
            if dice < 0.4:
                view = view[: self.draw.randrange(len(view) + 1)]
            return self._store.read_into(key, start, view)

    for round_ in range(scaled(20)):
        dest = tmp_path / f"dest{round_}"
        for _ in range(100):
            try:
                pull(Shaky(local_store), MODEL, "0", dest)
                break
            except StorageError as fault:
                assert fault.retryable and not dest.exists()
        assert bytes_of(dest) == stored(local_store, base)


def test_a_dead_store_is_an_error_and_nothing_switches(local_store, base, tmp_path, short_spans):
    class Dead(S3Like):
        def read_into(self, key, start, view):
            raise StorageError("the store does not answer", remedy="Try again")

    with pytest.raises(StorageError):
        pull(Dead(local_store), MODEL, "0", tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


PULL = """
import sys, time
from pathlib import Path
from corrigenda.storage.objects import ranges
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.delivery.pull import pull
ranges._SPAN = 2048
store = LocalStore.open(Path(sys.argv[1]))
plain = LocalStore.read_into
def slow(self, key, start, view):
    time.sleep(0.001)
    return plain(self, key, start, view)
LocalStore.read_into = slow
print("go", flush=True)
while True:
    for ref in sys.argv[3:]:
        pull(store, "tiny", ref, Path(sys.argv[2]))
"""


def test_a_pull_that_is_killed_at_any_moment_leaves_one_release_and_goes_on(local_store, base, tmp_path):
    dest, draw = tmp_path / "dest", random.Random(1)
    releases = [base, release(local_store, base, seed=7), release(local_store, base, seed=8)]
    wanted = {r.number: stored(local_store, r) for r in releases}
    command = [sys.executable, "-c", PULL, str(local_store.root), str(dest), "0", "1", "2"]
    for _ in range(scaled(4)):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            assert worker.stdout.readline() == b"go\n"
            time.sleep(draw.uniform(0, 0.3))
            worker.send_signal(signal.SIGKILL)
        if dest.exists():
            number = check(dest).release.number
            assert bytes_of(dest) == wanted[number]
        else:
            assert not dest.is_symlink()
    pull(local_store, MODEL, "latest", dest)
    assert bytes_of(dest) == wanted[2]
    names = {path.name.split("-")[0] for path in (tmp_path / ".dest.corrigenda").iterdir()}
    assert names == {"lock", "blobs", "partial", "release"}


def test_two_pulls_at_once_are_one_after_the_other(local_store, base, tmp_path):
    release(local_store, base, seed=7)
    numbers = [0, 1] * 6
    threads = [
        threading.Thread(target=pull, args=(local_store, MODEL, str(number), tmp_path / "dest"))
        for number in numbers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert check(tmp_path / "dest").faults == ()


def hostile(store, base: Release, **changes) -> None:
    """Let `latest` point to a manifest that no honest publisher writes."""
    plain = json.loads(manifests.to_bytes(base)) | changes
    body = json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"
    blobs.put(store, body)
    to = Ref(0, sha256_hex(body), "2026-01-01T00:00:00+00:00", "evil")
    refs.advance(store, MODEL, "latest", seen=refs.read(store, MODEL, "latest"), to=to)


@pytest.mark.parametrize("path", ["../evil", "/tmp/evil", "a/../../evil", ".corrigenda/evil"])
def test_a_hostile_manifest_writes_nothing_anywhere(local_store, base, tmp_path, path):
    hostile(local_store, base, files={path: base.files["config.json"].to_json()})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CorruptBlobError, match="is not allowed"):
        pull(local_store, MODEL, "latest", tmp_path / "dest")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("size", [0, 1, 15, 17, 100, 10**9])
def test_a_wrong_size_is_refused(local_store, base, tmp_path, size, short_spans):
    ref = base.files["config.json"].to_json() | {"size": size}
    hostile(local_store, base, files={"config.json": ref})
    with pytest.raises(CorruptBlobError):
        pull(local_store, MODEL, "latest", tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


def test_a_release_that_cannot_fit_is_refused_at_once(local_store, base, tmp_path):
    ref = base.files["config.json"].to_json() | {"size": 1 << 49}
    hostile(local_store, base, files={"config.json": ref})
    with pytest.raises(SetupError, match="too little space"):
        pull(local_store, MODEL, "latest", tmp_path / "dest")


def test_another_models_ref_is_refused(local_store, base, tmp_path):
    refs.advance(local_store, "other", "latest", seen=Seen(None, None), to=Ref.to(base, "evil"))
    with pytest.raises(CorruptBlobError, match="another"):
        pull(local_store, "other", "latest", tmp_path / "dest")


def test_a_blob_that_is_gone_is_named(local_store, base, tmp_path):
    ref = base.files["config.json"]
    local_store.delete(blobs.key(ref.digest))
    with pytest.raises(NotFoundError, match=ref.digest):
        pull(local_store, MODEL, "0", tmp_path / "dest")


def test_a_read_only_place_is_one_clear_line(local_store, base, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CorrigendaError):
        pull(local_store, MODEL, "0", tmp_path / "file" / "dest")


def test_pull_imports_neither_torch_nor_an_orchestrator():
    code = (
        "import sys, corrigenda.storage.delivery.pull, corrigenda.storage.objects.s3, corrigenda.cli.release;"
        "heavy = {'torch', 'prefect', 'transformers', 'duckdb', 'numpy', 'pyarrow'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_release_pulled_from_s3_is_the_same(moto_store, tmp_path):
    base = register(moto_store, save(tmp_path / "base", checkpoint()))
    first = release(moto_store, base, seed=7)
    pull(moto_store, MODEL, "latest", tmp_path / "dest")
    assert bytes_of(tmp_path / "dest") == stored(moto_store, first)
    assert publish.rollback(moto_store, MODEL, to=0)[0] == base
