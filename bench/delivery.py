"""What a night costs on the wire, and how a pull compares with a plain download of the same bytes.

    python -m bench.delivery [DIRECTORY]      a Hugging Face directory; default: synthetic, 512 MB
    CORRIGENDA_BENCH_MB=64                       size of the synthetic one

Starts its own SeaweedFS server. The plain download is boto3's `download_file` of the same objects, one
after the other as any script does it; both write to the same disk. They take turns, and the ratio is the
median over the rounds, so that the noise of the machine meets both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "storage"))

from store_servers import BUCKET, free_port, location, sent_bytes, serve, weed_command

from corrigenda.storage.delivery.pull import check, pull
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.s3 import S3Store
from corrigenda.storage.releases import layouts, publish, refs, safetensors
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.publish import Candidate
from corrigenda.storage.releases.safetensors import RawTensor

ROUNDS = 9
LAYERS = 30
MODEL = "bench"

Action = Callable[[Path], object]


def synthetic(directory: Path, megabytes: int) -> Path:
    """A checkpoint of random float32 tensors with SmolLM2-135M's proportions."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    rows = megabytes * 1_000_000 // (4 * 1536 * 152)
    found = {}
    for layer in range(LAYERS):
        found[f"model.layers.{layer}.mlp.down_proj.weight"] = random_tensor(rows)
        found[f"model.layers.{layer}.rest"] = random_tensor(4 * rows)
    (directory / safetensors.SINGLE).write_bytes(safetensors.shard_bytes(found))
    return directory


def random_tensor(rows: int) -> RawTensor:
    return RawTensor("F32", (rows, 1536), os.urandom(rows * 1536 * 4))


def plain_download(store: S3Store, release: Release, into: Path) -> None:
    into.mkdir()
    for path, ref in release.files.items():
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        store.client.download_file(BUCKET, store.prefix + blobs.key(ref.digest), str(target))


def in_pairs(plain: Action, ours: Action, folder: Path) -> tuple[list[float], list[float]]:
    """Seconds of both actions, round by round, each from nothing; who is first changes every round."""
    took: dict[int, list[float]] = {0: [], 1: []}
    for round_ in range(ROUNDS):
        for which in (0, 1) if round_ % 2 else (1, 0):
            folder.mkdir()
            start = time.perf_counter()
            (plain, ours)[which](folder / "dest")
            took[which].append(time.perf_counter() - start)
            shutil.rmtree(folder)
    return took[0], took[1]


def measure(endpoint: str, directory: Path, scratch: Path) -> dict[str, float]:
    store = S3Store.connect(location(endpoint, "bench"))
    names = [name for name in safetensors.read_checkpoint(directory) if name.endswith("mlp.down_proj.weight")]
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

    with sent_bytes(store) as laid_out:
        layouts.assemble(store, staged)
    boto3_s, pull_s = in_pairs(
        lambda dest: plain_download(store, staged, dest),
        lambda dest: pull(store, MODEL, "latest", dest),
        scratch / "timed",
    )
    ratios = [ours / plain for ours, plain in zip(pull_s, boto3_s, strict=True)]
    assert check(scratch / "host").faults == ()
    return {
        "checkpoint_bytes": base.size,
        "register_s": round(register_s, 2),
        "release_sent_share": round(release_sent[0] / base.size, 5),
        "release_again_sent_bytes": again_sent[0],
        "pull_share": round(moved / base.size, 5),
        "layout_sent_bytes": laid_out[0],
        "boto3_s": round(median(boto3_s), 3),
        "pull_s": round(median(pull_s), 3),
        "pull_over_boto3": round(median(ratios), 3),
        "pull_over_boto3_from": round(min(ratios), 3),
        "pull_over_boto3_to": round(max(ratios), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "directory", type=Path, nargs="?", help="a Hugging Face directory; default: synthetic"
    )
    parser.add_argument("--megabytes", type=int, default=512, help="of the synthetic checkpoint")
    parser.add_argument("--smoke", action="store_true", help="eight megabytes: whether it runs at all")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        directory = asked.directory or synthetic(scratch / "synthetic", 8 if asked.smoke else asked.megabytes)
        (scratch / "weed").mkdir()
        port = free_port()
        running = serve(weed_command(scratch / "weed", port), f"http://127.0.0.1:{port}", scratch / "log")
        found = measure(next(running), directory, scratch)
        next(running, None)  # ends the server
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
