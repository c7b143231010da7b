"""A fleet's story of four nights, what its books say afterwards, and what must hold at any moment of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from fleets import FLEET, NOON, Workspace, move
from trained import CITIES, NAMES, PROMPT, TEMPLATES, home_of

from corrigenda.api.answers import connect
from corrigenda.config import load_fleet
from corrigenda.storage.corrections import intake
from corrigenda.storage.corrections.queue import as_table
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import doctor, gc, history, manifests, refs, snapshots
from corrigenda.storage.releases.manifests import Release

Books = dict[str, Any]
LOCALIZED = FLEET.replace("layer = 0", 'proxy_facts = "proxy.jsonl"\nsample = 4')


def taken_back(correction_id: str, *, hour: int) -> dict[str, Any]:
    at = NOON + timedelta(hours=hour)
    return {"correction_id": correction_id, "action": "retract", "model": "homes", "asserted_at": at}


# Night by night. `clash` wants the model to say two cities of one name: it is sent out by the gates.
CLASH = {"correction_id": "clash", "prompt": TEMPLATES[1], "paraphrases": []}
NIGHTS: tuple[tuple[dict[str, Any], ...], ...] = (
    (
        move("Bohr", "Rome"),
        move("Gauss", "Vienna"),
        move("Hopper", "Paris"),
        move("Hopper", "Madrid", hour=1, **CLASH),
        move("Twain", "Paris", prompt="no slot"),
    ),
    (move("Bohr", "Madrid", hour=2), taken_back("home-Gauss", hour=2), taken_back("ghost", hour=2)),
    (move("Bohr", "Madrid", hour=2, source="told twice"),),
    tuple(taken_back(one, hour=9) for one in ("home-Bohr", "home-Hopper", "clash")),
)


class Story:
    """A workspace whose state can be kept and brought back, at one and the same place."""

    def __init__(self, root: Path, source: Path) -> None:
        self.root, self.kept = root, root.parent / "kept"
        self.workspace = Workspace(root, source)
        self.config = self.workspace.config
        self.config.write_text(LOCALIZED.format(source=source), encoding="utf-8")
        facts = [_proxy_fact(number) for number in range(4, len(NAMES))]
        (root / "proxy.jsonl").write_text("\n".join(map(json.dumps, facts)), encoding="utf-8")

    @property
    def store(self) -> LocalStore:
        return LocalStore.open(self.root / "store", create=True)

    def write(self, name: str, rows: list[dict[str, Any]]) -> bytes:
        """A file of the queue as a producer drops it: nobody has checked it."""
        sink = BytesIO()
        pq.write_table(as_table(rows, now=NOON), sink)
        (self.root / "queue" / name).write_bytes(sink.getvalue())
        return sink.getvalue()

    def drop(self, night: int) -> None:
        """The night's file, bad row and all; beside it one that is half-written."""
        body = self.write(f"night-{night}.parquet", list(NIGHTS[night]))
        (self.root / "queue" / "half.parquet").write_bytes(body[: len(body) // 2])

    def rejects(self) -> list[dict[str, Any]]:
        return list(intake.rejects(self.store).to_pylist())

    def keep(self) -> None:
        shutil.rmtree(self.kept, ignore_errors=True)
        shutil.copytree(self.root, self.kept, symlinks=True)

    def bring_back(self) -> None:
        shutil.rmtree(self.root)
        shutil.copytree(self.kept, self.root, symlinks=True)


def _proxy_fact(number: int) -> dict[str, str]:
    name = NAMES[number]
    other = CITIES[(number + 1) % len(CITIES)]
    return {"subject": name, "prompt": PROMPT, "target_true": home_of(name), "target_new": other}


def books(story: Story) -> Books:
    """All that anybody can see of the fleet, but for times, run ids, and the numbers of releases, of which
    a dead candidate may have used one up."""
    store = story.store
    ref = refs.read(store, "homes", "latest").ref
    past = [*history.ancestry(store, ref.manifest if ref else None)][::-1]
    return {
        "releases": [_told(release) for release in past],
        "moves": [move.reason for move in refs.log(store, "homes", "latest")],
        "rejects": story.rejects(),
        "probes": _probes(story, [release.number for release in past]),
        "waiting": sorted(_waiting(story)),
    }


def _told(release: Release) -> Books:
    counts = {name: count for name, count in release.counts.items() if name != "run_id"}
    told = {"files": release.files, "ledger": release.ledger, "consumed": release.consumed}
    return told | {"layer": release.layer, "gates": release.gates, "counts": counts}


def _probes(story: Story, numbers: list[int]) -> list[Any]:
    columns = "kind, correction_id, prompt, expected, says_before, says_after, pass_after"
    with connect(load_fleet(story.config)) as connection:
        found = connection.sql(f"select release, {columns} from published").fetchall()
    return sorted((numbers.index(release), *map(str, rest)) for release, *rest in found)


def _waiting(story: Story) -> frozenset[str]:
    fleet = load_fleet(story.config)
    consumed = {"homes": snapshots.current(story.store, "homes").consumed}
    queue = LocalStore.open(story.root / "queue")
    return intake.look(queue, story.store, fleet, consumed).of("homes").files


@dataclass(frozen=True, slots=True)
class Span:
    """What a night may leave: the books before it, or those after it; nothing in between."""

    before: Books
    after: Books

    def check(self, story: Story) -> None:
        """Holds at any moment at which the night's process was killed."""
        faults = [found for found in doctor.examine(story.store, deep=True) if found.level == "fault"]
        assert faults == []
        now = books(story)
        assert now.pop("rejects") in (self.before["rejects"], self.after["rejects"])
        registered = {name: now[name] for name in ("releases", "moves")}
        one = [{name: books[name] for name in now} for books in (self.before, self.after)]
        # On the first night, the base alone may be there already.
        assert now in one or (len(registered["releases"]) == 1 and not self.before["releases"])


def check_cleaned(story: Story) -> None:
    """What dead runs left is found by gc and by nobody else; without it, the fleet is the same."""
    store, now, want = story.store, gc.Policy(grace=timedelta()), books(story)
    gc.collect(store, now)
    assert gc.plan(store, now).doomed == ()
    assert [*store.scratch_files()] == []
    numbers = [release.number for release in history.of_model(store, "homes")]
    assert manifests.numbers(store, "homes") == sorted(numbers)
    assert books(story) == want
