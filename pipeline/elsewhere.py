"""A model's night in a process of its own: its memory returns to the system, its death is one failed model.

Whatever starts such a night hands it four plain values, and finds what came of it on record in the store.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from corrigenda.errors import LostNightError, StorageError
from corrigenda.pipeline import diary, order
from corrigenda.pipeline.diary import Outcome
from corrigenda.pipeline.ingest import read_queue
from corrigenda.pipeline.night import Night, OpenFleet, open_fleet
from corrigenda.pipeline.runner import Runner, plainly


def alone(
    config: str, model: str, run_id: str | None, layouts: Sequence[str] = (), run: Runner = plainly
) -> Outcome:
    """One model's night and nothing else: what came of it, which is on record under the run's name, too."""
    fleet = open_fleet(Path(config), layouts, run_id)
    night = Night(fleet, model, run(read_queue, fleet, [fleet.config.model(model).name]))
    return order.attempt(night, lambda one: order.maintain_model(one, run))


def correct(fleet: OpenFleet, models: Sequence[str] | None = None, *, dry_run: bool = False) -> Outcome:
    """The fleet, without an orchestrator: here, or in processes where `[scale]` says so.

    Other engines are an orchestrator's: without one, the models are done here.
    """
    scale = fleet.config.scale
    if scale.engine != "processes":
        return order.run_fleet(fleet, models, dry_run=dry_run)
    maintain = unless_quiet(order.maintain_model, in_process)
    return order.run_fleet(fleet, models, dry_run=dry_run, maintain=maintain, at_once=scale.threads)


def unless_quiet(
    here: Callable[[Night], Outcome], there: Callable[[Night], Outcome]
) -> Callable[[Night], Outcome]:
    """`there` for the nights that need an edit; those without news cost less here than a process costs.

    Where the store fails here in a way that may pass, `there` tries again.
    """

    def maintain(night: Night) -> Outcome:
        if order.is_quiet(night):
            with suppress(StorageError):
                return here(night)
        return there(night)

    return maintain


def arguments(night: Night) -> tuple[str, str, str, list[str]]:
    """What `alone` needs to know of a night: plain values, which travel to any machine."""
    return str(night.fleet.path), night.name, night.fleet.run_id, sorted(night.fleet.layouts)


def in_process(night: Night) -> Outcome:
    """The night in a process that is forked off a clean one, which has imported already what is heavy.

    Raises LostNightError when it died.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["corrigenda.pipeline.renewal"])
    process = context.Process(target=_child, args=arguments(night), name=f"night of {night.name}")
    process.start()
    process.join()
    return on_record(night, _how_it_ended(process.exitcode))


def on_record(night: Night, ended: str) -> Outcome:
    """What the night left in the store. Raises LostNightError, with how it ended, when it left nothing."""
    came = diary.read(night.store, night.fleet.run_id, night.name)
    if came is None:
        raise LostNightError(
            "the model's night died and left no record; nothing of it is visible",
            remedy="The next run does it again; see its log, and give it more memory if that was the cause",
            model=night.name,
            ended=ended,
        )
    return came


def _child(config: str, model: str, run_id: str, layouts: Sequence[str]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    alone(config, model, run_id, layouts)


def _end_with_parent() -> None:
    """A run that is gone wants no more of its nights; what they have computed is in the cache."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (": out of memory?" if name == "SIGKILL" else "")
    return f"exit code {code}"
