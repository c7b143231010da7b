"""What a night costs on the wire, and how a pull compares with a plain download of the same bytes.

    python bench/bench_store.py [DIRECTORY]      a Hugging Face directory; default: synthetic, 512 MB
    CORRIGENDA_BENCH_MB=64                       size of the synthetic one

Starts its own SeaweedFS server. The plain download is boto3's `download_file` of the same objects, one
after the other as any script does it; both write to the same disk, in turns, the best of ROUNDS.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "storage"))

from store_servers import BUCKET, free_port, location, serve, weed_command

from corrigenda.storage import blobs, publish, refs, tensors
from corrigenda.storage.manifests import Release
from corrigenda.storage.publish import Candidate
from corrigenda.storage.pull import check, pull
from corrigenda.storage.s3 import S3Store
from corrigenda.storage.tensors import RawTensor

ROUNDS = 5
LAYERS = 30
MODEL = "bench"


def synthetic(directory: Path, megabytes: int) -> Path:
    """A checkpoint of random float32 tensors with SmolLM2-135M's proportions."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    rows = megabytes * 1_000_000 // (4 * 1536 * 152)
    found = {}
    for layer in range(LAYERS):
        found[f"model.layers.{layer}.mlp.down_proj.weight"] = random_tensor(rows)
        found[f"model.layers.{layer}.rest"] = random_tensor(4 * rows)
    (directory / tensors.SINGLE).write_bytes(tensors.shard_bytes(found))
    return directory


def random_tensor(rows: int) -> RawTensor:
    return RawTensor("F32", (rows, 1536), os.urandom(rows * 1536 * 4))


@contextmanager
def sent_bytes(store: S3Store) -> Iterator[list[int]]:
    """Counts the bytes of all request bodies while the block runs."""
    sent = [0]

    def count(request: object, **_: object) -> None:
        sent[0] += int(getattr(request, "headers", {}).get("Content-Length", 0))

    store.client.meta.events.register("before-send.s3", count)
    try:
        yield sent
    finally:
        store.client.meta.events.unregister("before-send.s3", count)


def plain_download(store: S3Store, release: Release, into: Path) -> None:
    into.mkdir()
    for path, ref in release.files.items():
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        store.client.download_file(BUCKET, store.prefix + blobs.key(ref.digest), str(target))


def best_in_turns(actions: list[Callable[[Path], object]], folder: Path) -> list[float]:
    """Seconds of each action's fastest round; they take turns, and every round starts from nothing."""
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(ROUNDS):
        for action, took in zip(actions, seconds, strict=True):
            folder.mkdir()
            start = time.perf_counter()
            action(folder / "dest")
            took.append(time.perf_counter() - start)
            shutil.rmtree(folder)
    return [min(took) for took in seconds]


def measure(endpoint: str, directory: Path, scratch: Path) -> dict[str, float]:
    store = S3Store.connect(location(endpoint, "bench"))
    names = [name for name in tensors.read_checkpoint(directory) if name.endswith("mlp.down_proj.weight")]
    start = time.perf_counter()
    base = publish.register_base(store, MODEL, directory, source="bench", editable=names)
    register_s = time.perf_counter() - start
    pull(store, MODEL, "latest", scratch / "host")

    edited = publish.read_tensor(store, base, names[len(names) // 2])
    new = {names[len(names) // 2]: RawTensor(edited.dtype, edited.shape, os.urandom(edited.size))}
    seen = refs.read(store, MODEL, "latest")
    candidate = Candidate(layer=len(names) // 2)
    with sent_bytes(store) as release_sent:
        files = publish.replaced_files(store, base, new)
        staged = publish.stage(store, base, files, candidate, parent=base)
        publish.promote(store, staged, seen=seen)
    with sent_bytes(store) as again_sent:
        files = publish.replaced_files(store, base, new)
        publish.stage(store, base, files, candidate, parent=staged)
    moved = pull(store, MODEL, "latest", scratch / "host").downloaded

    actions = [
        lambda dest: plain_download(store, staged, dest),
        lambda dest: pull(store, MODEL, "latest", dest),
    ]
    boto3_s, pull_s = best_in_turns(actions, scratch / "timed")
    assert check(scratch / "host").faults == ()
    return {
        "checkpoint_bytes": base.size,
        "register_s": round(register_s, 2),
        "release_sent_share": round(release_sent[0] / base.size, 5),
        "release_again_sent_bytes": again_sent[0],
        "pull_share": round(moved / base.size, 5),
        "boto3_s": round(boto3_s, 3),
        "pull_s": round(pull_s, 3),
        "pull_over_boto3": round(pull_s / boto3_s, 3),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if len(sys.argv) > 1:
            directory = Path(sys.argv[1])
        else:
            directory = synthetic(scratch / "synthetic", int(os.environ.get("CORRIGENDA_BENCH_MB", "512")))
        (scratch / "weed").mkdir()
        port = free_port()
        running = serve(weed_command(scratch / "weed", port), f"http://127.0.0.1:{port}", scratch / "log")
        found = measure(next(running), directory, scratch)
        running.close()  # type: ignore[attr-defined]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
