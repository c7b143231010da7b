"""A million queued rows over two hundred files for fifty models: read, checked, grouped.

    python -m bench.ingest [--rows 1000000] [--files 200] [--models 50]

Prints wall time and the peak of this process's resident memory; fails above 60 s or 1.5 GB. Making the files
is done by a process of its own, so that it counts towards neither.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corrigenda.config import FleetConfig, Location, ModelEntry
from corrigenda.storage.corrections import intake
from corrigenda.storage.corrections.schemas import CORRECTIONS
from corrigenda.storage.objects.local import LocalStore

MOST_SECONDS, MOST_BYTES = 60.0, 1.5e9


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("rows", 1_000_000), ("files", 200), ("models", 50)):
        asked.add_argument(f"--{name}", type=int, default=default)
    args = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        maker = multiprocessing.get_context("spawn").Process(
            target=make, args=(root / "queue", args.rows, args.files, args.models)
        )
        maker.start()
        maker.join()
        seconds, taken, rejected, again = measure(root, args.models)
    peak = peak_bytes()
    print(f"rows taken {taken:,}, rejected {rejected:,}; {seconds:.1f} s, peak {peak / 1e9:.2f} GB")
    print(f"the next look, with everything consumed: {again:.2f} s, no file read")
    if seconds > MOST_SECONDS or peak > MOST_BYTES:
        raise SystemExit(f"above {MOST_SECONDS:.0f} s or {MOST_BYTES / 1e9} GB")


def peak_bytes() -> float:
    """The peak of this process's resident memory.

    `ru_maxrss` outlives exec on Linux: a child of a large process would report its parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(root: Path, models: int) -> tuple[float, int, int, float]:
    """Seconds of a look that groups for every model, rows taken and rejected, seconds of the next look."""
    queue, state = LocalStore.open(root / "queue"), LocalStore.open(root / "state", create=True)
    fleet = fleet_of(models)
    start = time.perf_counter()
    found = intake.look(queue, state, fleet, {entry.name: frozenset() for entry in fleet.models})
    taken, consumed = 0, {}
    for model in found.models:
        mine = found.of(model)
        taken += mine.rows.num_rows
        consumed[model] = mine.files
    intake.record(queue, state, found)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    assert not intake.look(queue, state, fleet, consumed).models
    return seconds, taken, found.rejected, time.perf_counter() - start


def fleet_of(models: int) -> FleetConfig:
    entries = tuple(
        ModelEntry(name=f"model-{i:02d}", source="none", tags=(f"tag{i % 5}",)) for i in range(models)
    )
    return FleetConfig(store=Location(url="state"), queue=Location(url="queue"), models=entries)


def make(folder: Path, rows: int, files: int, models: int) -> None:
    """Files of rows as people have them: 2 paraphrases and 4 neighbours each, one row in 500 is bad."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    each = rows // files
    for number in range(files):
        ids = number * each + np.arange(each)
        names = [f"model-{i:02d}" for i in draw.integers(0, models, each)]
        names[1] = "tag:tag1"  # for ten models at once
        table = [
            {
                "correction_id": f"fact-{i}",
                "action": "upsert",
                "model": name,
                "subject": f"Subject number {i}",
                "prompt": "The head of government of {} is" if i % 500 else "The head of government is",
                "target_new": f"Person {i}",
                "target_old": f"Person {i - 1}",
                "paraphrases": [f"Who heads the government of subject number {i}?", f"Head of subject {i}:"],
                "neighborhood": [
                    {"prompt": f"The capital of place {i + k} is", "answer": f"City {k}"} for k in range(4)
                ],
                "asserted_at": datetime(2026, 1, 1, tzinfo=UTC),
                "source": "bench",
            }
            for i, name in zip(ids.tolist(), names, strict=True)
        ]
        pq.write_table(pa.Table.from_pylist(table, schema=CORRECTIONS), folder / f"{number:04d}.parquet")


if __name__ == "__main__":
    main()
