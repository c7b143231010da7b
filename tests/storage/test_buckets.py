"""Bases that lie in a bucket: the right files, whole, once, however often the line is cut."""

from __future__ import annotations

import hashlib
import secrets

import pytest
from releases import EDITABLE, MODEL, checkpoint, save
from store_servers import BUCKET, CuttingProxy, location

from corrigenda.errors import CorruptBlobError, NotFoundError, SetupError, StorageError, UsageError
from corrigenda.storage.delivery import buckets
from corrigenda.storage.objects import ranges
from corrigenda.storage.objects.s3 import S3Store
from corrigenda.storage.releases import publish, safetensors


@pytest.fixture(params=["weed_endpoint", "moto_endpoint"])
def bucket(request):
    """A place in a bucket of its own."""
    return location(request.getfixturevalue(request.param), f"bases/{secrets.token_hex(4)}")


@pytest.fixture
def weed_bucket(weed_endpoint):
    return location(weed_endpoint, f"bases/{secrets.token_hex(4)}")


def upload(where, directory) -> S3Store:
    store = S3Store.connect(where)
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            key = f"{store.prefix}{path.relative_to(directory).as_posix()}"
            store.client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
    return store


def contents(directory) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("shards", [1, 3])
def test_a_base_in_a_bucket_is_registered_as_the_directory_would_be(bucket, local_store, tmp_path, shards):
    directory = save(tmp_path / "base", checkpoint(), shards)
    upload(bucket, directory)
    fetched = buckets.fetch(bucket, tmp_path / "cache")
    assert contents(fetched) == contents(directory)
    one = publish.register_base(local_store, MODEL, fetched, source=bucket.url, editable=EDITABLE)
    other = publish.register_base(local_store, "other", directory, source="x", editable=EDITABLE)
    assert one.files == other.files and one.base["weights_digest"] == other.base["weights_digest"]


def test_what_was_fetched_is_not_fetched_again_and_changes_are(weed_bucket, tmp_path):
    store = upload(weed_bucket, save(tmp_path / "base", checkpoint()))
    moved = []
    first = buckets.fetch(weed_bucket, tmp_path / "cache", moved.append)
    assert sum(moved) == sum(info.size for info in store.list(""))
    assert buckets.fetch(weed_bucket, tmp_path / "cache", moved.append) == first
    assert sum(moved) == sum(info.size for info in store.list(""))
    upload(weed_bucket, save(tmp_path / "new", checkpoint(seed=3)))
    second = buckets.fetch(weed_bucket, tmp_path / "cache")
    assert second != first and contents(second) != contents(first)


def test_other_formats_signatures_and_hidden_files_stay_behind(weed_bucket, tmp_path):
    directory = save(tmp_path / "base", checkpoint())
    wanted = contents(directory)
    for name in (
        "pytorch_model.bin",
        "model.onnx",
        "model.sig",
        "corrigenda-manifest.json",
        ".gitattributes",
    ):
        (directory / name).write_text("x")
    upload(weed_bucket, directory)
    assert contents(buckets.fetch(weed_bucket, tmp_path / "cache")) == wanted


def test_a_fetch_goes_on_where_it_was_cut(weed_endpoint, weed_bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "_SPAN", 4096)
    monkeypatch.setattr(ranges, "_PAUSE_S", 0.001)
    directory = save(tmp_path / "base", checkpoint(shape=(64, 256)))
    upload(weed_bucket, directory)
    proxy = CuttingProxy(weed_endpoint, cuts=12, most=60_000)
    broken = weed_bucket.model_copy(update={"endpoint_url": proxy.endpoint})
    attempts = 0
    while True:
        try:
            fetched = buckets.fetch(broken, tmp_path / "cache")
            break
        except StorageError as fault:
            assert fault.retryable
            attempts += 1
            assert attempts < 50
    proxy.close()
    assert proxy.done == 12 and contents(fetched) == contents(directory)


def test_a_wrong_beginning_is_found_by_its_md5_and_thrown_away(weed_bucket, tmp_path):
    directory = save(tmp_path / "base", checkpoint())
    upload(weed_bucket, directory)
    done = buckets.fetch(weed_bucket, tmp_path / "cache")
    begun = done.with_suffix(".partial")
    done.rename(begun)
    body = (begun / safetensors.SINGLE).read_bytes()
    (begun / safetensors.SINGLE).write_bytes(b"x" * 100 + body[100:1000])
    (begun / "config.json").write_bytes(b"longer than the object is" * 10)
    assert contents(buckets.fetch(weed_bucket, tmp_path / "cache")) == contents(directory)


def test_bytes_that_arrive_wrong_twice_are_an_error(weed_bucket, tmp_path, monkeypatch):
    upload(weed_bucket, save(tmp_path / "base", checkpoint()))
    wrong = hashlib.md5(b"other", usedforsecurity=False).hexdigest()
    monkeypatch.setattr(S3Store, "md5_of", lambda store, info: wrong)
    with pytest.raises(CorruptBlobError, match="arrive damaged"):
        buckets.fetch(weed_bucket, tmp_path / "cache")


def test_a_source_that_changes_meanwhile_is_not_taken(weed_bucket, tmp_path, monkeypatch):
    store = upload(weed_bucket, save(tmp_path / "base", checkpoint()))
    plain = S3Store.md5_of

    def while_it_is_checked(found, info):
        store.client.put_object(Bucket=BUCKET, Key=f"{store.prefix}added.json", Body=b"{}")
        return plain(found, info)

    monkeypatch.setattr(S3Store, "md5_of", while_it_is_checked)
    with pytest.raises(StorageError, match="changed while") as changed:
        buckets.fetch(weed_bucket, tmp_path / "cache")
    assert changed.value.retryable
    assert "added.json" in contents(buckets.fetch(weed_bucket, tmp_path / "cache"))


def test_uploads_in_parts_have_no_md5_and_are_taken_by_size(weed_bucket, tmp_path):
    directory = save(tmp_path / "base", checkpoint())
    store = upload(weed_bucket, directory)
    key, where = f"{store.prefix}{safetensors.SINGLE}", {"Bucket": BUCKET}
    upload_id = store.client.create_multipart_upload(**where, Key=key)["UploadId"]
    body = (directory / safetensors.SINGLE).read_bytes()
    part = store.client.upload_part(**where, Key=key, UploadId=upload_id, PartNumber=1, Body=body)
    parts = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
    store.client.complete_multipart_upload(**where, Key=key, UploadId=upload_id, MultipartUpload=parts)
    [info] = [info for info in store.list("") if info.key == safetensors.SINGLE]
    assert store.md5_of(info) is None
    assert contents(buckets.fetch(weed_bucket, tmp_path / "cache")) == contents(directory)


def test_a_prefix_without_a_checkpoint_and_a_bad_name_are_one_clear_line(weed_bucket, tmp_path):
    store = S3Store.connect(weed_bucket)
    with pytest.raises(NotFoundError, match="no Hugging Face checkpoint"):
        buckets.fetch(weed_bucket, tmp_path / "cache")
    for name in ("config.json", "model.safetensors", "odd:name.json"):
        store.client.put_object(Bucket=BUCKET, Key=f"{store.prefix}{name}", Body=b"{}")
    with pytest.raises(UsageError, match="not allowed"):
        buckets.fetch(weed_bucket, tmp_path / "cache")
    absent = weed_bucket.model_copy(update={"url": "s3://no-such-bucket/x"})
    with pytest.raises(SetupError, match="there is no such bucket"):
        buckets.fetch(absent, tmp_path / "cache")
