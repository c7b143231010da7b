"""Nights in processes that die: the real pipeline without the orchestrator, killed at a chosen moment.

A moment is a point before or after something that a crash could part in two: a step of the pipeline, a write
to the object store, a change of a directory. An undisturbed night lists its moments; the same night, started
from the same state, dies at the n-th of them by SIGKILL.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from corrigenda.pipeline import night as nights
from corrigenda.pipeline.night import open_fleet
from corrigenda.pipeline.order import run_fleet
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import lease

WRITES = ("create", "create_from_file", "replace", "copy", "delete", "touch", "delete_unchanged")
CHANGES = ("fsync", "link", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink")  # of module os


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What becomes of a night.

    dies     number of the moment at which the process is killed; None: it lives
    fine     whether changes of directories are moments, too
    stops    how a moment begins at which the process stops itself (SIGSTOP), until somebody lets it go on
    ttl_s    seconds that a lease lasts; one that stops itself does not renew it
    """

    dies: int | None = None
    fine: bool = False
    stops: str | None = None
    ttl_s: float = lease.TTL_S


@dataclass(slots=True)
class Moments:
    """Counts the moments of this process, and ends it at the one that it is fated to die at."""

    fate: Fate
    seen: list[str] = field(default_factory=list)

    def __call__(self, what: str) -> None:
        if len(self.seen) == self.fate.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append(what)
        if self.fate.stops and what.startswith(self.fate.stops):
            os.kill(os.getpid(), signal.SIGSTOP)

    def around(self, what: str, act: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(act)
        def watched(*args: Any, **kwargs: Any) -> Any:
            where = f" {args[0]}" if args and isinstance(args[0], str | Path) else ""
            self(f"before {what}{where}")
            done = act(*args, **kwargs)
            self(f"after {what}{where}")
            return done

        return watched

    def step(self, stage: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """The runner of such nights."""
        self(f"before {stage.__name__}")
        done = stage(*args, **kwargs)
        self(f"after {stage.__name__}")
        return done


class MortalStore:
    """An object store whose writes are moments."""

    def __init__(self, store: ObjectStore, moments: Moments) -> None:
        self._store, self._moments = store, moments

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return self._moments.around(name, method) if name in WRITES else method


def start(config: Path, fate: Fate | None = None, *, report: str = "report.json") -> ForkServerProcess:
    """A night of the whole fleet in a process of its own; `told` reads what it leaves."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preload"])
    process = context.Process(target=_live, args=(config, fate or Fate(), report))
    process.start()
    return process


def wait_until_stopped(process: ForkServerProcess, timeout_s: float = 300) -> None:
    """Raises TimeoutError when the process does not stop itself."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        state = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii", errors="replace")
        if state.rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.01)
    raise TimeoutError(f"process {process.pid} has not stopped")


def go_on(process: ForkServerProcess) -> int | None:
    """Let a stopped process go on to its end; its exit status."""
    os.kill(int(process.pid or 0), signal.SIGCONT)
    process.join(600)
    return process.exitcode


def told(config: Path, report: str = "report.json") -> dict[str, Any]:
    """What a night said that lived to its end: `models`, per model an outcome or an error; `moments`."""
    said: dict[str, Any] = json.loads((config.parent / report).read_text(encoding="utf-8"))
    return said


def _live(config: Path, fate: Fate, report: str) -> None:
    import torch

    torch.set_num_threads(1)
    # Some of a process's death is what it wrote last, also to its cache: that lies beside the store.
    os.environ["CORRIGENDA_CACHE"] = str(config.parent / "cache")
    # Open to the end of the process: what it dies of is written there.
    sys.stdout = sys.stderr = (config.parent / f"{report}.log").open("w", encoding="utf-8", buffering=1)
    moments = Moments(fate)
    _watch(moments)
    started = time.perf_counter()
    models = _night(config, moments)
    said = {"models": models, "moments": moments.seen, "seconds": time.perf_counter() - started}
    (config.parent / report).write_text(json.dumps(said, default=str), encoding="utf-8")


def _watch(moments: Moments) -> None:
    """Make writes and, when wanted, changes of directories moments of this process, as its stages are."""
    opened = nights.open_store
    nights.open_store = lambda *args, **kwargs: MortalStore(opened(*args, **kwargs), moments)  # type: ignore[assignment]
    hold = lease.hold
    lease.hold = functools.partial(hold, ttl_s=moments.fate.ttl_s)  # type: ignore[assignment]
    if moments.fate.stops:
        # Who sleeps renews nothing; and one that is stopped while it renews would hold the store's lock.
        lease._renew = lambda *_: None
    for name in CHANGES if moments.fate.fine else ():
        setattr(os, name, moments.around(f"os.{name}", getattr(os, name)))


def _night(config: Path, moments: Moments) -> dict[str, Any]:
    """The whole fleet's night; each of its stages is two moments."""
    outcome = run_fleet(open_fleet(config), run=moments.step)
    return {model["model"]: model for model in outcome["models"]}
