"""Stores to test against: a directory, moto, and a SeaweedFS server of our own; none needs a network."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corrigenda.config import Location
from corrigenda.storage.local import LocalStore
from corrigenda.storage.s3 import S3Store

SCALE = float(os.environ.get("CORRIGENDA_TEST_SCALE", "1"))
BUCKET = "corrigenda-tests"


def scaled(count: int) -> int:
    """A number of rounds; CORRIGENDA_TEST_SCALE=10 makes the long, hand-started measurement of it."""
    return max(1, round(count * SCALE))


def binary(name: str) -> str:
    """A server's program, from the environment of the tests or the path; skips when there is none."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"`{name}` is not installed: pip install 'corrigenda[dev]'")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        # SeaweedFS takes port + 10000 for its own protocol.
        return port if port < 50_000 else port - 20_000


def location(endpoint: str, prefix: str = "") -> Location:
    return Location(
        url=f"s3://{BUCKET}/{prefix}",
        endpoint_url=endpoint,
        region="us-east-1",
        access_key="test",
        secret_key="testtest",
    )


def serve(command: list[str], endpoint: str, log: Path) -> Iterator[str]:
    """Start a server, make the bucket as soon as it answers, stop it at the end."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="testtest",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5),
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
                break
            except (BotoCoreError, ClientError):
                if time.monotonic() > deadline or server.poll() is not None:
                    pytest.fail(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.2)
        yield endpoint
    finally:
        server.kill()  # nothing of it is wanted any more; SeaweedFS takes its time to stop
        server.wait(20)


@pytest.fixture(scope="session")
def moto_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    log = tmp_path_factory.mktemp("moto") / "log"
    yield from serve([binary("moto_server"), "-p", str(port)], f"http://127.0.0.1:{port}", log)


@pytest.fixture(scope="session")
def weed_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("weed")
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    command = [binary("weed"), "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += ["-s3.port.iceberg=0", "-volume.max=20", "-master.volumeSizeLimitMB=256"]
    yield from serve(command, f"http://127.0.0.1:{ports['s3']}", folder / "log")


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
