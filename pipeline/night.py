"""A night: what one run of one model works with, opened once and handed from stage to stage."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from corrigenda.config import Defaults, FleetConfig, ModelEntry, load_fleet
from corrigenda.facts import sha256_hex
from corrigenda.models.sources import cache_home
from corrigenda.pipeline.clock import Clock
from corrigenda.storage.corrections.intake import Intake
from corrigenda.storage.objects.cache import Cache
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.keys import NOBODY, Keyring
from corrigenda.storage.objects.opening import open_store
from corrigenda.storage.releases import lease

GC_S = 900.0  # seconds that a night waits for a gc that is deleting


@dataclass(frozen=True, slots=True)
class OpenFleet:
    """A fleet's configuration with its queue and store opened, for one run.

    layouts   asked for in this run, besides those of the configuration
    keys      what is made is signed with them, and what the store says is believed by them
    """

    path: Path
    config: FleetConfig
    store: ObjectStore
    queue: ObjectStore
    run_id: str
    layouts: frozenset[str] = frozenset()
    keys: Keyring = NOBODY


class Night:
    """One model's part of a run. A plain class: the orchestrator shows its name and stores nothing of it."""

    __slots__ = ("clock", "entry", "fleet", "intake", "settings")

    def __init__(self, fleet: OpenFleet, name: str, intake: Intake) -> None:
        self.fleet: OpenFleet = fleet
        self.entry: ModelEntry = fleet.config.model(name)
        self.settings: Defaults = fleet.config.settings_of(self.entry)
        self.intake: Intake = intake
        self.clock = Clock()

    def __str__(self) -> str:
        return self.entry.name

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def store(self) -> ObjectStore:
        return self.fleet.store

    @property
    def layouts(self) -> frozenset[str]:
        """How this model's releases are laid out in the store, besides their blobs."""
        return self.fleet.layouts | {*self.settings.layouts}

    @property
    def keys(self) -> Keyring:
        return self.fleet.keys

    @property
    def cache(self) -> Cache:
        """What earlier nights have computed, as far as it is to be believed."""
        return Cache(self.store, self.keys)

    @property
    def workplace(self) -> Path:
        """Where this model's base and candidate are materialised: a cache, safe to delete."""
        return cache_home() / "work" / sha256_hex(self.store.url.encode())[:12] / self.name

    @property
    def blob_cache(self) -> Path:
        """Blobs that base, candidate and the demo's pull share by hard links."""
        return cache_home() / "blobs"

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Be the only writer of this model, once gc is through. Raises BusyError when another run is."""
        owner = f"{lease.person()}@{socket.gethostname()}:{os.getpid()}:{self.fleet.run_id}"
        with lease.hold(self.store, self.name, owner, patience_s=GC_S):
            yield


def open_fleet(config: Path, layouts: Iterable[str] = (), run_id: str | None = None) -> OpenFleet:
    """Open a configuration's queue and store; a store that is a directory is made when it is not there.

    run_id   of the run that this is a part of; default: a new one
    """
    fleet = load_fleet(config)
    now = datetime.now(UTC)
    return OpenFleet(
        path=config.resolve(),
        config=fleet,
        store=open_store(fleet.store, root=fleet.root, create=True),
        queue=open_store(fleet.queue, root=fleet.root, create=True),
        run_id=run_id or f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}",
        layouts=frozenset(layouts),
        keys=Keyring.of(fleet),
    )
