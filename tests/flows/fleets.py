"""Workspaces with one small model, and corrections of what it knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from trained import NAMES, PROMPT, TEMPLATES, home_of

from corrigenda.config import Location, load_fleet
from corrigenda.errors import PartialFleetError
from corrigenda.storage.corrections.queue import submit
from corrigenda.storage.delivery.pull import resolve
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.opening import open_store
from corrigenda.storage.releases.manifests import Release

FLEET = """
[store]
url = "./store"
[queue]
url = "./queue"
[defaults]
device = "cpu"
[defaults.gates]
max_locality_drop = 0.5
max_perplexity_rise = 5.0
max_drift_nats = 5.0
min_paraphrase = 0.0
[defaults.localization]
layer = 0
[defaults.editing]
covariance_weight = 1.0
[defaults.editing.targets]
contexts = 0
[defaults.covariance]
tokens = 1000
length = 25
[defaults.drift]
tokens = 1000
length = 25
[[models]]
name = "homes"
source = "{source}"
tags = ["people"]
"""
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Workspace:
    """A fleet in a directory, and what tests do with it."""

    def __init__(self, root: Path, source: Path, more: str = "") -> None:
        root.mkdir(parents=True, exist_ok=True)
        (root / "queue").mkdir()
        self.config = root / "fleet.toml"
        self.config.write_text(FLEET.format(source=source) + more, encoding="utf-8")

    @property
    def store(self) -> ObjectStore:
        fleet = load_fleet(self.config)
        return open_store(fleet.store, root=fleet.root, create=True)

    def submit(self, *rows: dict[str, Any]) -> None:
        submit(list(rows), to=Location(url=str(self.config.parent / "queue")))

    def run(self, **options: Any) -> dict[str, Any]:
        from corrigenda.flows.maintain_fleet import maintain_fleet

        try:
            outcome: dict[str, Any] = maintain_fleet(str(self.config), **options)
        except PartialFleetError as fault:
            outcome = fault.facts["outcome"]
        return outcome

    def release(self, ref: str = "latest") -> Release:
        return resolve(self.store, "homes", ref)


def move(name: str, city: str, *, hour: int = 0, **more: Any) -> dict[str, Any]:
    """A correction: somebody lives in another city now."""
    near = [n for n in NAMES if n != name][:3]
    return {
        "correction_id": f"home-{name}",
        "model": "homes",
        "subject": name,
        "prompt": PROMPT,
        "target_new": city,
        "target_old": home_of(name),
        "paraphrases": [TEMPLATES[1].replace("{}", name)],
        "neighborhood": [{"prompt": PROMPT.replace("{}", n), "answer": home_of(n)} for n in near],
        "asserted_at": NOON + timedelta(hours=hour),
    } | more
