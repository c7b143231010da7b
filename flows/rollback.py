"""Going back: `latest` moves to an older release, by compare-and-swap, and the ref's log says why."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from corrigenda.config import load_fleet
from corrigenda.storage.objects.keys import Keyring
from corrigenda.storage.objects.opening import open_store
from corrigenda.storage.releases import publish


@flow(name="rollback", persist_result=False)
def rollback(model: str, to: int, config: str = "fleet.toml", reason: str = "") -> int:
    """Point `latest` of a model back to release `to`; returns its number.

    The ledger moves with it: what later releases took in waits in the queue again.
    """
    fleet = load_fleet(Path(config))
    store = open_store(fleet.store, root=fleet.root)
    keys = Keyring.of(fleet)
    release, _ = publish.rollback(store, fleet.model(model).name, to=to, reason=reason, keys=keys)
    return release.number
