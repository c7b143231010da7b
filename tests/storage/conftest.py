"""Stores to test against: a directory, moto, and a SeaweedFS server of our own; none needs a network."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_servers import binary, free_port, location, serve, weed_command

from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.objects.s3 import S3Store


@pytest.fixture(scope="session")
def moto_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = tmp_path_factory.mktemp("moto") / "log"
    yield from serve([binary("moto_server"), "-p", str(port)], f"http://127.0.0.1:{port}", log)


@pytest.fixture(scope="session")
def weed_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("weed")
    port = free_port()
    yield from serve(weed_command(folder, port), f"http://127.0.0.1:{port}", folder / "log")


@pytest.fixture(scope="session")
def rclone_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("rclone")
    port = free_port()
    command = [binary("rclone"), "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}"]
    yield from serve([*command, "--auth-key", "test,testtest"], f"http://127.0.0.1:{port}", folder / "log")


@pytest.fixture
def local_store(tmp_path: Path) -> LocalStore:
    return LocalStore.open(tmp_path / "store", create=True)


@pytest.fixture
def weed_store(weed_endpoint: str) -> S3Store:
    return S3Store.connect(location(weed_endpoint, secrets.token_hex(6)))


@pytest.fixture
def moto_store(moto_endpoint: str) -> S3Store:
    return S3Store.connect(location(moto_endpoint, secrets.token_hex(6)))
