"""Retention by schedule: what no kept release, ref or cache entry needs any more is deleted."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from prefect import flow

from corrigenda.config import load_fleet
from corrigenda.storage.objects.opening import open_store
from corrigenda.storage.releases import gc


@flow(name="upkeep", persist_result=False, retries=5, retry_delay_seconds=1800)
def upkeep(
    config: str = "fleet.toml",
    keep: int = 30,
    cache_days: float = 90,
    grace_days: float = 7,
) -> dict[str, int]:
    """Delete as `corrigenda gc --delete` does; returns how many objects and bytes are gone.

    keep         newest releases of each ref's history that stay, besides release 0 and what the refs point to
    cache_days   cache entries that are older go, too
    grace_days   nothing younger is touched

    Raises BusyError while a night is at work, after which it is tried again.
    """
    fleet = load_fleet(Path(config))
    policy = gc.Policy(
        grace=timedelta(days=grace_days),
        releases=keep,
        cache_age=timedelta(days=cache_days),
        wait=timedelta(seconds=10),
    )
    gone = gc.collect(open_store(fleet.store, root=fleet.root), policy)
    return {"objects": len(gone.doomed), "bytes": gone.doomed_bytes}
