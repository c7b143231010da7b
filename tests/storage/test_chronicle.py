"""The chronicle is a fast path: with it, without it, or with half of it, every answer is the same."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from releases import EDITABLE, MODEL, checkpoint, raw, register, save

from corrigenda.facts import Correction
from corrigenda.storage.corrections import ledger
from corrigenda.storage.releases import chronicle, doctor, gc, history, manifests, publish, refs, snapshots
from corrigenda.storage.releases.chronicle import Chronicle
from corrigenda.storage.releases.publish import Candidate

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
IDS = [f"fact-{n}" for n in range(6)]


def correction(draw: random.Random, hour: int) -> Correction:
    action = draw.choice(["upsert", "upsert", "retract"])
    return Correction(
        correction_id=draw.choice(IDS),
        action=action,
        model=MODEL,
        subject=draw.choice(["Bohr", "Gauss"]) if action == "upsert" else "",
        prompt="{} lives in" if action == "upsert" else "",
        target_new=draw.choice(["Rome", "Oslo"]) if action == "upsert" else "",
        asserted_at=NOON + timedelta(hours=hour),
    )


def night(store, base, draw: random.Random, number: int) -> None:
    """A release with some new corrections; now and then one is sent out, or the release is rolled back."""
    now = snapshots.current(store, MODEL)
    kept, _ = ledger.merge(now.ledger, [correction(draw, number) for _ in range(draw.randrange(1, 4))])
    if kept.active and draw.random() < 0.3:
        kept = ledger.quarantine(kept, [kept.active[0].correction_id], "fell_short", {"share": 0.5})
    books, consumed = snapshots.put(store, kept, now.consumed | {f"{number:064x}"})
    files = publish.replaced_files(store, base, {EDITABLE[1]: raw(number)})
    candidate = Candidate(layer=1, ledger=books, consumed=consumed, counts=dict(kept.counts))
    staged = publish.stage(store, base, files, candidate, parent=now.release)
    publish.promote(store, staged, seen=now.seen)
    if draw.random() < 0.2:
        publish.rollback(store, MODEL, to=draw.choice([r.number for r in history.of_model(store, MODEL)]))


def answers(store, known: Chronicle | None = None):
    """All that is asked of the chronicle."""
    known = chronicle.load(store, MODEL) if known is None else known
    head = refs.require(store, MODEL, "latest")
    return {
        "log": list(chronicle.moves(store, known, head)),
        "releases": list(chronicle.ancestry(store, known, head.manifest)),
        "stories": {one: list(snapshots.episodes(store, MODEL, one)) for one in IDS},
        "gc": {info.key for info in gc.plan(store, gc.Policy(grace=timedelta(0), releases=2)).doomed},
        "counts": snapshots.head(store, MODEL).counts,
    }


@pytest.mark.parametrize("seed", range(2))
def test_answers_are_those_of_manifests_and_ledgers(local_store, tmp_path, monkeypatch, seed):
    monkeypatch.setattr(chronicle, "FAN", 3)
    draw, base = random.Random(seed), register(local_store, save(tmp_path / "base", checkpoint()))
    for number in range(10):
        night(local_store, base, draw, number)
        if draw.random() < 0.7:
            chronicle.update(local_store, MODEL)
    written = answers(local_store)
    now = snapshots.current(local_store, MODEL)
    assert written["counts"] == now.ledger.counts
    parts = [info.key for info in local_store.list(chronicle.prefix(MODEL))]
    assert 1 <= len(parts) < 10
    draw.shuffle(parts)
    for key in parts[:3]:
        body, version = local_store.get(key)
        local_store.replace(key, body[:-20], version=version)
        assert [f.subject for f in doctor.examine(local_store) if "chronicle" in f.what].count(key) == 1
        assert answers(local_store) == written
        local_store.delete(key)
    assert answers(local_store) == written
    assert written["log"] == list(refs.log(local_store, MODEL, "latest"))
    assert [line.manifest for line in written["releases"]] == [
        release.digest for release in history.of_model(local_store, MODEL)
    ]


def test_an_old_store_gets_its_chronicle_in_some_nights(local_store, tmp_path, monkeypatch):
    monkeypatch.setattr(chronicle, "MOST", 4)
    draw, base = random.Random(7), register(local_store, save(tmp_path / "base", checkpoint()))
    for number in range(9):
        night(local_store, base, draw, number)
    want = answers(local_store)
    for _ in count():
        if not chronicle.update(local_store, MODEL):
            break
        assert answers(local_store) == want
    for _ in range(9):
        chronicle.update(local_store, MODEL)
    known = chronicle.load(local_store, MODEL)
    assert {line.manifest for line in want["releases"]} <= known.lines.keys()
    assert {move.previous for move in want["log"] if move.previous} <= known.moves.keys()


def test_a_release_is_read_from_the_chronicle_alone(local_store, tmp_path):
    base = register(local_store, save(tmp_path / "base", checkpoint()))
    night(local_store, base, random.Random(1), 1)
    chronicle.update(local_store, MODEL)
    known = chronicle.load(local_store, MODEL)
    for name in manifests.numbers(local_store, MODEL):
        release = manifests.read(local_store, MODEL, name)
        line = known.lines[release.digest]
        assert {ref.digest for ref in release.blobs} | {release.digest} <= {*line.blobs}
        assert (line.number, line.size, dict(line.counts)) == (name, release.size, dict(release.counts))
