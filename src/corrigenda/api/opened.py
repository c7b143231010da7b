"""What a configuration names, opened; light, for hosts that only pull."""

from __future__ import annotations

from pathlib import Path

from corrigenda.config import FleetConfig
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.opening import open_store


def store_of(fleet: FleetConfig, *, absent_ok: bool = False) -> ObjectStore:
    """The store of a configuration. Raises SetupError when it is not there.

    absent_ok   before the first run there is none, which reads as an empty one
    """
    return open_store(fleet.store, root=fleet.root, absent_ok=absent_ok)


def queue_of(fleet: FleetConfig, *, create: bool = False) -> ObjectStore:
    """The queue of a configuration; before anything is handed in there is none, which reads as empty."""
    return open_store(fleet.queue, root=fleet.root, create=create, absent_ok=not create)


def trusted_by(fleet: FleetConfig) -> list[Path]:
    """The public keys whose releases the fleet's readers take."""
    return [fleet.root / path for path in fleet.signing.public_keys]
