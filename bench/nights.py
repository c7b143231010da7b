"""What nights cost: twenty models without news, one process against several, and thirty nights of a store.

    python -m bench.nights                       all figures
    python -m bench.nights --models 6 --nights 5 a smaller run
    python -m bench.nights --only quiet          what nights without news cost

Small models that know facts, trained here. CPU is of this process, and of the processes that it waits for.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "flows")]

from fleets import FLEET, move  # noqa: E402
from trained import CITIES, NAMES, home_of, train  # noqa: E402

from corrigenda import Fleet  # noqa: E402

MODEL = '\n[[models]]\nname = "model-{number:02}"\nsource = "./base"\n'
COMMAND = "from corrigenda.cli import main; main()"
START = """
from pathlib import Path
from corrigenda.flows.embedded import prepare
prepare(Path({home!r}) / ".corrigenda")
from prefect import flow
flow(lambda: None, name="nothing")()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--only", choices=("quiet", "scale", "grow"))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["CORRIGENDA_CACHE"] = str(Path(place) / "cache")
        train(Path(place) / "base", "gpt2")
        if asked.only in (None, "quiet"):
            quiet(fleet_of(Path(place) / "quiet", asked.models))
        if asked.only in (None, "scale"):
            scale(Path(place), asked.models)
        if asked.only in (None, "grow"):
            grow(fleet_of(Path(place) / "grown", 1), asked.nights)


def fleet_of(root: Path, models: int, more: str = "") -> Path:
    """A workspace whose models all have one base."""
    (root / "queue").mkdir(parents=True)
    (root / "base").symlink_to(root.parent / "base")
    head = FLEET.format(source="").partition("[[models]]")[0]
    sections = "".join(MODEL.format(number=number) for number in range(models))
    (root / "fleet.toml").write_text(head + more + sections, encoding="utf-8")
    return root / "fleet.toml"


def quiet(config: Path) -> None:
    """Nothing new in any model: what the orchestrator costs is told apart from what we do."""
    assert not Fleet.open(config).run().exit_code
    plain = cpu_of([sys.executable, "-c", COMMAND, "run", "--plain", "--config", str(config)])
    flow = cpu_of([sys.executable, "-c", COMMAND, "run", "--config", str(config)])
    start = cpu_of([sys.executable, "-c", START.format(home=str(config.parent))])
    count = len(Fleet.open(config).config.models)
    print(f"{count} models, nothing new: {plain:.1f} s of CPU plainly, {flow:.1f} s as the flow")
    print(f"  Prefect's start with one empty flow: {start:.1f} s of CPU; {flow - start:.1f} s beyond it")


def scale(place: Path, models: int) -> None:
    """Something new in all models, in one process after another, and in two at a time."""
    took = {}
    for at_once in (1, 2):
        config = fleet_of(
            place / f"scale-{at_once}", models, f'[scale]\nengine = "processes"\nat_once = {at_once}\n'
        )
        Fleet.open(config).run()
        Fleet.open(config).submit([move("Bohr", "Rome") | {"model": "*"}])
        took[at_once] = seconds(lambda config=config: Fleet.open(config).run())  # type: ignore[misc]
    print(f"{models} models, something new in all: {took[1]:.1f} s with one process at a time")
    print(f"  two at a time: {took[2]:.1f} s, {took[2] / took[1]:.2f} of that")


def grow(config: Path, nights: int) -> None:
    """A correction a night: what store and cache hold, night after night."""
    fleet = Fleet.open(config)
    cache = Path(os.environ["CORRIGENDA_CACHE"])
    for night in range(nights):
        name, city = NAMES[night % len(NAMES)], CITIES[(night // len(NAMES) + 1) % len(CITIES)]
        if city == home_of(name):
            city = CITIES[(CITIES.index(city) + 1) % len(CITIES)]
        row = move(name, city, hour=night) | {"model": "*", "correction_id": f"night-{night}"}
        fleet.submit([row])
        done = fleet.run().models[0]
        for blob in (cache / "blobs" / "blobs").iterdir():  # a day passes
            os.utime(blob, (blob.stat().st_atime - 90_000, blob.stat().st_mtime))
        sizes = (size_of(config.parent / "store"), size_of(cache / "blobs"))
        if night in (0, 1, nights // 2, nights - 1):
            store, kept = (size / 1e6 for size in sizes)
            print(f"night {night + 1}: {done.status}; store {store:.2f} MB, cache of blobs {kept:.2f} MB")
    gone = fleet.gc(delete=True, keep=5, grace=_days(0), cache_age=_days(0), wait=_days(0))
    left, freed = size_of(config.parent / "store") / 1e6, gone.doomed_bytes / 1e6
    print(f"gc, keeping 5 releases: {len(gone.doomed)} objects, {freed:.2f} MB gone; {left:.2f} MB left")


def _days(count: float) -> Any:
    from datetime import timedelta

    return timedelta(days=count)


def cpu_of(command: list[str]) -> float:
    """User and system seconds of a command and of what it waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def seconds(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def size_of(root: Path) -> int:
    """Bytes of all files, shared ones once."""
    files = {path.stat().st_ino: path.stat().st_size for path in root.rglob("*") if path.is_file()}
    return sum(files.values())


if __name__ == "__main__":
    main()
