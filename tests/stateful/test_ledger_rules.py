"""Submit, retract, run, race, crash and roll back, against a plain-Python reading of the rules.

Two models share one queue; a night is the real storage from the queue to the ref, without a model's weights.
It dies before or after any of its writes. CORRIGENDA_TEST_SCALE multiplies the number of histories: 20 is
some six thousand steps.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from corrigenda.config import FleetConfig, Location, ModelEntry
from corrigenda.errors import LostRaceError
from corrigenda.facts import Correction, digest_of
from corrigenda.storage.corrections import intake, ledger, queue
from corrigenda.storage.corrections.schemas import table_of
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import gc, history, manifests, publish, refs, snapshots
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.refs import Ref
from corrigenda.storage.releases.snapshots import Snapshot

SCALE = float(os.environ.get("CORRIGENDA_TEST_SCALE", "1"))
T0 = datetime(2026, 1, 1, tzinfo=UTC)
MODELS = ("big", "small")
SELECTORS = {"big": {"big"}, "small": {"small"}, "*": {"big", "small"}, "tag:chat": {"small"}}
FLEET = FleetConfig(
    store=Location(url="state"),
    queue=Location(url="queue"),
    models=(ModelEntry(name="big", source="none"), ModelEntry(name="small", source="none", tags=("chat",))),
)
WRITES = ("create", "create_from_file", "replace", "copy", "delete")


class KilledError(Exception):
    """The process dies here."""


class MortalStore:
    """A store of a process that dies at its n-th moment: there is one before and one after each write."""

    def __init__(self, store: LocalStore, dies: int) -> None:
        self._store, self._left = store, dies

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return functools.partial(self._write, method) if name in WRITES else method

    def _write(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._moment()
        done = method(*args, **kwargs)
        self._moment()
        return done

    def _moment(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise KilledError


@dataclass
class Plain:
    """The rules as one would keep them by hand: files in a list, a release is what it has read."""

    files: dict[str, list[Correction]] = field(default_factory=dict)
    releases: dict[str, dict[int, tuple[frozenset[str], frozenset[str]]]] = field(
        default_factory=lambda: {model: {0: (frozenset(), frozenset())} for model in MODELS}
    )
    head: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODELS, 0))

    def new(self, model: str) -> set[str]:
        """Files with a row for the model that its present release has not read."""
        mine = {name for name, rows in self.files.items() if any(model in SELECTORS[r.model] for r in rows)}
        return mine - self.releases[model][self.head[model]][0]

    def entries(self, model: str) -> dict[str, Correction]:
        """Every version that the present release has read, by its digest."""
        read, _ = self.releases[model][self.head[model]]
        rows = (row for name in read for row in self.files[name] if model in SELECTORS[row.model])
        return {digest_of(row.content): row for row in rows}

    def active(self, model: str) -> dict[str, tuple[str, str]]:
        """correction_id -> (target, digest) of what the present release must contain."""
        out = self.releases[model][self.head[model]][1]
        counting: dict[str, tuple[Any, Correction]] = {}
        for digest, row in self.entries(model).items():
            age = (row.asserted_at, row.action == "retract", digest)
            if row.correction_id not in counting or counting[row.correction_id][0] < age:
                counting[row.correction_id] = (age, row)
        slots: dict[Any, tuple[Any, Correction]] = {}
        for age, row in counting.values():
            place = (row.subject.lower(), row.prompt)
            if row.action == "upsert" and (place not in slots or slots[place][0] < age):
                slots[place] = (age, row)
        return {
            row.correction_id: (row.target_new, age[2]) for age, row in slots.values() if age[2] not in out
        }

    def publish(self, model: str, number: int, out: bool) -> None:
        """A release that reads what is new, and quarantines the first of its corrections when told so."""
        read, marks = self.releases[model][self.head[model]]
        read |= self.new(model)
        self.releases[model][number] = read, marks
        self.head[model] = number
        if out and (active := self.active(model)):
            self.releases[model][number] = read, marks | {active[min(active)][1]}


def night(store: Any, waiting: LocalStore, model: str, seen: Snapshot, *, out: bool) -> Any:
    """One run for one model: what the flow does, but for the weights. Returns (release, files)."""
    found = intake.look(waiting, store, FLEET, {model: seen.consumed})
    intake.record(waiting, store, found)
    mine = found.of(model)
    if not mine.files:
        return None
    kept, _ = ledger.merge(seen.ledger, mine.arrivals())
    victims = [c.correction_id for c in kept.active][:1] if out else []
    kept = ledger.quarantine(kept, victims, "locality", {"drop": 0.1})
    named = snapshots.put(store, kept, seen.consumed | mine.files)
    release = manifests.write(store, _release(store, model, seen, *named))
    refs.advance(store, model, "latest", seen=seen.seen, to=Ref.to(release, "night"))
    return release.number, mine.files


def _release(store: Any, model: str, seen: Snapshot, kept: Any, consumed: Any) -> Release:
    return Release(
        model=model,
        number=manifests.numbers(store, model)[-1] + 1,
        files={},
        created_at=datetime.now(UTC).isoformat(),
        parent=seen.release.digest if seen.release else None,
        ledger=kept,
        consumed=consumed,
    )


class LedgerRules(RuleBasedStateMachine):
    steps = 0

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = LocalStore.open(self.folder / "state", create=True)
        self.queue = LocalStore.open(self.folder / "queue", create=True)
        self.plain, self.digests, self.clock = Plain(), dict[str, str](), 0
        for model in MODELS:
            base = manifests.write(self.store, Release(model=model, number=0, files={}, created_at=""))
            refs.advance(
                self.store,
                model,
                "latest",
                seen=refs.read(self.store, model, "latest"),
                to=Ref.to(base, "base"),
            )

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def _enqueue(self, rows: list[Correction]) -> None:
        name = queue.enqueue(self.queue, table_of(rows))
        digest = queue.sha256_hex(self.queue.get(name)[0])
        self.plain.files[digest] = rows

    @rule(
        ids=st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True),
        model=st.sampled_from(sorted(SELECTORS)),
        subject=st.sampled_from(["Paris", "PARIS", "Rome"]),
        prompt=st.sampled_from(["{} is", "In {}"]),
        answer=st.sampled_from(["X", "Y"]),
        ago=st.integers(0, 5),
        nights=st.lists(st.booleans(), max_size=2),
    )
    def submit(
        self,
        ids: list[str],
        model: str,
        subject: str,
        prompt: str,
        answer: str,
        ago: int,
        nights: list[bool],
    ) -> None:
        said = {"subject": subject, "prompt": prompt, "target_new": answer}
        self._enqueue([self._correction(i, model, ago, **said) for i in ids])
        for out in nights:
            self.run(out=out)

    @rule(
        correction_id=st.sampled_from("abcd"), model=st.sampled_from(sorted(SELECTORS)), ago=st.integers(0, 3)
    )
    def retract(self, correction_id: str, model: str, ago: int) -> None:
        self._enqueue([self._correction(correction_id, model, ago, action="retract")])

    def _correction(self, correction_id: str, model: str, ago: int, **said: Any) -> Correction:
        self.clock += 1
        texts = {"subject": "", "prompt": "", "target_new": ""} | said
        at = T0 + timedelta(minutes=self.clock - ago)
        return Correction(correction_id=correction_id, model=model, asserted_at=at, **texts)

    @rule(keep=st.integers(0, 60))
    def a_half_written_file_appears(self, keep: int) -> None:
        body = queue.to_bytes(table_of([]))
        self.queue.create(f"half-{keep}.parquet", body[:keep])

    @precondition(lambda self: self.plain.files)
    @rule(data=st.data())
    def a_file_is_dropped_again_under_another_name(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(i.key for i in queue.listing(self.queue)[0])))
        self.queue.create(f"again-{name.removeprefix('again-')}", self.queue.get(name)[0])

    @rule(out=st.booleans())
    def run(self, out: bool) -> None:
        for model in MODELS:
            seen = snapshots.current(self.store, model)
            self._publish(model, night(self.store, self.queue, model, seen, out=out), out)

    @rule(model=st.sampled_from(MODELS), moment=st.integers(0, 24), out=st.booleans())
    def crash(self, model: str, moment: int, out: bool) -> None:
        seen = snapshots.current(self.store, model)
        try:
            done = night(MortalStore(self.store, moment), self.queue, model, seen, out=out)
        except KilledError:
            now = snapshots.current(self.store, model)
            if now.seen == seen.seen:
                return
            assert now.release is not None
            done = now.release.number, self.plain.new(model)
        self._publish(model, done, out)

    @rule()
    def clean_up(self) -> None:
        """Deletes what dead runs left, and releases that nothing leads to any more; nobody sees it."""
        gc.collect(self.store, gc.Policy(grace=timedelta()))
        for model in MODELS:
            left = set(manifests.numbers(self.store, model))
            assert {release.number for release in history.of_model(self.store, model)} == left
            self.plain.releases[model] = {n: self.plain.releases[model][n] for n in left}

    @rule(model=st.sampled_from(MODELS))
    def two_runs_race(self, model: str) -> None:
        seen = snapshots.current(self.store, model)
        first = night(self.store, self.queue, model, seen, out=False)
        self._publish(model, first, out=False)
        if first:
            with pytest.raises(LostRaceError):
                night(self.store, self.queue, model, seen, out=True)

    @rule(model=st.sampled_from(MODELS), data=st.data())
    def roll_back(self, model: str, data: st.DataObject) -> None:
        to = data.draw(st.sampled_from(sorted(self.plain.releases[model])))
        publish.rollback(self.store, model, to=to)
        self.plain.head[model] = to

    def _publish(self, model: str, done: Any, out: bool) -> None:
        new = self.plain.new(model)
        assert (done is not None) == bool(new)
        if done:
            number, files = done
            assert files == new
            assert number not in self.plain.releases[model]
            self.plain.publish(model, number, out)

    @invariant()
    def steps_are_counted(self) -> None:
        LedgerRules.steps += 1

    @invariant()
    def what_is_stored_is_what_the_rules_say(self) -> None:
        for model in MODELS if hasattr(self, "store") else ():
            now = snapshots.current(self.store, model)
            found = {e.correction.correction_id: (e.correction.target_new, e.digest)
                     for e in now.ledger.entries if e.state == "active"}  # fmt: skip
            assert found == self.plain.active(model)
            assert {e.digest for e in now.ledger.entries} == self.plain.entries(model).keys()
            assert now.consumed == self.plain.releases[model][self.plain.head[model]][0]

    @invariant()
    def what_is_not_consumed_waits(self) -> None:
        if hasattr(self, "store"):
            consumed = {model: snapshots.current(self.store, model).consumed for model in MODELS}
            found = intake.look(self.queue, self.store, FLEET, consumed)
            assert {model: set(found.of(model).files) for model in MODELS} == {
                model: self.plain.new(model) for model in MODELS
            }


@pytest.fixture(scope="module", autouse=True)
def steps_are_told() -> Iterator[None]:
    yield
    print(f"{LedgerRules.steps} steps")


LedgerRules.TestCase.settings = settings(
    max_examples=max(1, round(10 * SCALE)),
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TestLedgerRules = LedgerRules.TestCase
