"""The demo's workspace and facts: a fleet of one real model, corrected from an empty directory."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from corrigenda.api.fleet import Fleet
from corrigenda.errors import SetupError
from corrigenda.facts import Correction

MODEL = "smollm2-135m"
_CORRECTIONS = "demo_corrections.jsonl"
_FLEET = f"""\
# A fleet of one model. Every setting has a default; `corrigenda doctor` checks the set-up.
[store]
url = "./store"              # a directory, or s3://bucket/prefix

[queue]
url = "./queue"

[[models]]
name = "{MODEL}"
source = "demo:{MODEL}"      # a hub id, a directory, a .gguf file, or demo:NAME
tags = ["chat"]
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a prompt is answered with by the base and by the release, and whether that is right now."""

    prompt: str
    before: str
    after: str
    right: bool


def make_workspace(directory: Path) -> Fleet:
    """A workspace, its `fleet.toml` written when it is not there. Raises SetupError without permission."""
    config = directory / "fleet.toml"
    try:
        (directory / "queue").mkdir(parents=True, exist_ok=True)
        if not config.exists():
            config.write_text(_FLEET, encoding="utf-8")
    except OSError as fault:
        raise SetupError(
            "the workspace cannot be made",
            remedy="Name a directory that you may write to",
            directory=str(directory),
            cause=fault.strerror,
        ) from None
    return Fleet.open(config)


def submit_all(fleet: Fleet) -> list[Correction]:
    """Put the built-in corrections into the queue; the same file twice is one file."""
    from corrigenda.api import queueing
    from corrigenda.api.opened import queue_of
    from corrigenda.storage.corrections.schemas import correction_of

    queue = queue_of(fleet.config, create=True)
    with resources.as_file(resources.files("corrigenda").joinpath("data", _CORRECTIONS)) as path:
        found = queueing.submit(path, queue)
    return [correction_of(row) for row in found.corrections.to_pylist()]


def ask(fleet: Fleet, directory: Path, corrections: list[Correction]) -> list[Answer]:
    """Pull the base and the latest release into `directory`, and ask both by plain transformers."""
    from corrigenda.models.plain import continuations
    from corrigenda.models.sources import cache_home

    for ref, name in (("0", "base"), ("latest", "pulled")):
        fleet.pull(f"{MODEL}@{ref}", directory / name, cache=cache_home() / "blobs")
    prompts = [correction.request.text for correction in corrections]
    said = (continuations(directory / name, prompts) for name in ("base", "pulled"))
    return [
        Answer(correction.request.text, before, after, after.strip().startswith(correction.target_new))
        for correction, before, after in zip(corrections, *said, strict=True)
    ]
