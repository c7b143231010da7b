"""What a store costs its readers after many nights: seconds of commands, requests of a gc plan.

    python -m bench.growth [--nights 10 100 1000] [--rows 100] [--smoke]

A tiny model gets a night's release again and again: `rows` new corrections each, all of them in the ledger,
the results of their probes beside it, and every tenth night a rollback. Commands run as processes of their
own, as people start them; the best of three counts, in seconds of the processor. Requests are counted at the
store's interface.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "storage"))

import pyarrow as pa
import pyarrow.parquet as pq
from releases import EDITABLE, MODEL, checkpoint, raw, register, save

from corrigenda.storage.corrections import ledger
from corrigenda.storage.corrections.rules import STATES
from corrigenda.storage.corrections.schemas import LEDGER
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import chronicle, gc, publish, refs
from corrigenda.storage.releases.manifests import Release, by_digest
from corrigenda.storage.releases.publish import Candidate
from corrigenda.validation import results
from corrigenda.validation.tables import ROWS

START = datetime(2026, 1, 1, 3, tzinfo=UTC)
FLEET = f'[store]\nurl = "store"\n[queue]\nurl = "queue"\n[[models]]\nname = "{MODEL}"\nsource = "base"\n'
COMMANDS = (("status",), ("log", MODEL), ("show", "fact-0-0"))


class Counting:
    """A store that counts how often it is asked; a listing counts once for every thousand objects."""

    def __init__(self, store: Any) -> None:
        self._store, self.asked = store, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not callable(method):
            return method

        def counted(*args: Any, **named: Any) -> Any:
            self.asked[name] += 1
            return self._paged(method(*args, **named)) if name == "list" else method(*args, **named)

        return counted

    def _paged(self, listed: Iterator[Any]) -> Iterator[Any]:
        for number, info in enumerate(listed, start=1):
            self.asked["list"] += number % 1000 == 0
            yield info


def corrections(night: int, count: int) -> pa.Table:
    """New rows of a night's ledger."""
    ids = [f"fact-{night}-{number}" for number in range(count)]
    said: dict[str, list[Any]] = {
        "correction_id": ids,
        "action": ["upsert"] * count,
        "model": [MODEL] * count,
        "subject": [f"Person {night} {number}" for number in range(count)],
        "prompt": ["{} lives in the city of"] * count,
        "target_new": ["Rome"] * count,
        "asserted_at": [START + timedelta(days=night)] * count,
        "digest": [f"{night:032x}{number:032x}" for number in range(count)],
        "file": [f"{night:064x}"] * count,
        "state": ["active"] * count,
    }
    columns = [pa.array(said.get(c.name, [None] * count), c.type) for c in LEDGER]
    return pa.table(columns, schema=LEDGER)


def probes(night: int, run_id: str, count: int) -> pa.Table:
    """Results of a night's probes."""
    said: dict[str, list[Any]] = {
        "run_id": [run_id] * count,
        "model": [MODEL] * count,
        "release": [night + 1] * count,
        "scored_at": [START + timedelta(days=night)] * count,
        "correction_id": [f"fact-{night}-{number}" for number in range(count)],
        "kind": ["rewrite"] * count,
    }
    columns = [pa.array(said.get(c.name, [_nothing(c)] * count), c.type) for c in ROWS]
    return pa.table(columns, schema=ROWS)


def _nothing(column: pa.Field) -> Any:
    """A value that a column may have."""
    if column.nullable:
        return None
    return "" if pa.types.is_string(column.type) else 0


def nights(store: LocalStore, base: Release, first: int, last: int, rows: int, held: pa.Table) -> pa.Table:
    """Publish nights `first` to `last`; the ledger as it is then."""
    for night in range(first, last):
        held = pa.concat_tables([held, corrections(night, rows)])
        sink = BytesIO()
        pq.write_table(held, sink, compression="zstd")
        run_id = f"run-{night}"
        results.append(store, probes(night, run_id, rows))
        consumed = ledger.consumed_to_parquet(f"{n:064x}" for n in range(night + 1))
        candidate = Candidate(
            layer=1,
            ledger=blobs.put(store, sink.getvalue()),
            consumed=blobs.put(store, consumed),
            counts={"run_id": run_id, **dict.fromkeys(STATES, 0), "active": held.num_rows},
        )
        seen = refs.read(store, MODEL, "latest")
        assert seen.ref is not None
        files = publish.replaced_files(store, base, {EDITABLE[1]: raw(night)})
        head = by_digest(store, seen.ref.manifest)
        staged = publish.stage(store, base, files, candidate, parent=head)
        publish.promote(store, staged, seen=seen)
        if night % 10 == 9:
            publish.rollback(store, MODEL, to=head.number)
            publish.rollback(store, MODEL, to=staged.number)
        chronicle.update(store, MODEL)
    return held


def seconds(folder: Path, rounds: int, *command: str) -> float:
    """Processor seconds of a command, the best of some rounds: a busy machine does not change them much."""
    script = [sys.executable, "-c", "from corrigenda.cli import main; main()", *command]
    took = []
    for _ in range(rounds):
        before = os.times()
        done = subprocess.run(
            [*script, "--config", str(folder / "fleet.toml"), "--json"], check=False, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()
        after = os.times()
        took.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
        assert json.loads(done.stdout)
    return min(took)


def measure(counts: list[int], rows: int, rounds: int = 3) -> list[dict[str, Any]]:
    """A line of figures for every number of nights, in one store that grows."""
    told = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "fleet.toml").write_text(FLEET, encoding="utf-8")
        (folder / "queue").mkdir()
        store = LocalStore.open(folder / "store", create=True)
        base = register(store, save(folder / "base", checkpoint()))
        held, done = LEDGER.empty_table(), 0
        for count in counts:
            held = nights(store, base, done, count, rows, held)
            done = count
            counting = Counting(store)
            gc.plan(counting)
            line = {"nights": count, "corrections": held.num_rows}
            line |= {command[0]: round(seconds(folder, rounds, *command), 2) for command in COMMANDS}
            line |= {"gc_requests": counting.asked.total(), "parts": len(chronicle.load(store, MODEL).parts)}
            told.append(line)
            print(json.dumps(line), flush=True)
    return told


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rows", type=int, default=100, help="new corrections of a night")
    parser.add_argument("--smoke", action="store_true", help="two nights of three rows")
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.fsync = lambda fd: None  # what is measured is reading
    measure([2], 3, 1) if asked.smoke else measure(asked.nights, asked.rows)
