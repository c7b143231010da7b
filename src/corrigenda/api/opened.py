"""What a configuration names, opened; light, for hosts that only pull."""

from __future__ import annotations

from pathlib import Path

from corrigenda.config import FleetConfig
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.opening import open_store


def store_of(fleet: FleetConfig) -> ObjectStore:
    """The store of a configuration. Raises SetupError when it is not there."""
    return open_store(fleet.store, root=fleet.root)


def trusted_by(fleet: FleetConfig) -> list[Path]:
    """The public keys whose releases the fleet's readers take."""
    return [fleet.root / path for path in fleet.signing.public_keys]
