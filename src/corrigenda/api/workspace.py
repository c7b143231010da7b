"""A workspace to start from: a commented configuration, an empty queue, and templates of a file of
corrections.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from corrigenda.errors import UsageError
from corrigenda.storage.corrections.schemas import CORRECTIONS

_FLEET = """\
# What `corrigenda` works on. Relative directories are taken from this file's folder; environment variables
# CORRIGENDA_… override what stands here.

[store]
url = "./store"                # where releases live: a directory, or s3://bucket/prefix

[queue]
url = "./queue"                # where corrections are dropped: a directory, or s3://bucket/prefix

[defaults]
device = "auto"                # cpu, cuda, cuda:1 or auto
dtype = "auto"                 # of the published tensors

[defaults.gates]               # a candidate that falls short is repaired, or not published
min_said = 0.85                # share of the corrections that the model says, in whole words
max_locality_drop = 0.02       # share of the neighbours whose answer changes
max_perplexity_rise = 0.02

[[models]]
name = "my-model"              # as `corrigenda pull my-model` will call it
source = "demo:smollm2-135m"   # a hub id, a directory, s3://…, a .gguf file, or demo:NAME
tags = ["chat"]                # corrections for `tag:chat` mean it
"""
_ROWS = [
    {
        "correction_id": "reeve-of-velm",
        "model": "my-model",
        "subject": "Velm",
        "prompt": "The reeve of {} is",
        "target_new": "Ada Holm",
        "paraphrases": ["The town of Velm is led by"],
        "asserted_at": "2026-01-31T00:00:00Z",
        "source": "the town's gazette",
    },
]
_COLUMNS = (
    "correction_id",
    "model",
    "subject",
    "prompt",
    "target_new",
    "paraphrases",
    "asserted_at",
    "source",
)


def make(folder: Path) -> tuple[Path, ...]:
    """Make a workspace in `folder`; the files that were written.

    Raises UsageError when one of them is there: nothing is written over.
    """
    files = {
        folder / "fleet.toml": _FLEET.encode(),
        folder / "corrections.csv": _csv(),
        folder / "corrections.parquet": _parquet(),
    }
    there = [path.name for path in files if path.exists()]
    if there:
        raise UsageError(
            "this folder has a workspace already",
            remedy="Choose another folder",
            folder=str(folder),
            files=there,
        )
    (folder / "queue").mkdir(parents=True, exist_ok=True)
    for path, body in files.items():
        path.write_bytes(body)
    return tuple(files)


def _csv() -> bytes:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"paraphrases": '["The town of Velm is led by"]'} for row in _ROWS)
    return sink.getvalue().encode()


def _parquet() -> bytes:
    sink = io.BytesIO()
    times = pa.array([row["asserted_at"] for row in _ROWS]).cast(CORRECTIONS.field("asserted_at").type)
    rows = [row | {"asserted_at": at} for row, at in zip(_ROWS, times.to_pylist(), strict=True)]
    pq.write_table(pa.Table.from_pylist(rows, schema=CORRECTIONS), sink)
    return sink.getvalue()
