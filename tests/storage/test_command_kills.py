"""What commands do to a store, killed at any moment: the store is whole, and the same command then succeeds.

CORRIGENDA_COMMAND_KILLS=500 kills so many; a few are killed as a matter of course. Whole nights are killed in
tests/flows/kills.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from datetime import timedelta

from queue_rows import row
from releases import MODEL, checkpoint, register, release, save

from corrigenda.storage.corrections import queue
from corrigenda.storage.delivery import pull
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import chronicle, gc, history, layouts, lease, manifests, mend, publish, refs
from corrigenda.storage.releases.gc import Policy

KILLS = int(os.environ.get("CORRIGENDA_COMMAND_KILLS", "14"))
NOW = Policy(grace=timedelta(0), releases=3)


def commands(root, base, draw: random.Random):
    """What the commands do, with what each of them works on."""
    store = LocalStore.open(root / "store")
    number = draw.randrange(6)
    back = draw.choice([made.number for made in history.of_model(store, MODEL)][:3])
    return {
        "run": lambda: (release(store, base, number), chronicle.update(store, MODEL)),
        "rollback": lambda: publish.rollback(store, MODEL, to=back),
        "gc": lambda: gc.collect(store, NOW),
        "doctor --mend": lambda: list(mend.mend(store, MODEL)),
        "run of a new model": lambda: register(store, root / "base", f"new-{number}"),
        "run --layout hf": lambda: layouts.assemble(store, publish.manifests.read(store, MODEL, back)),
        "unlock": lambda: lease.unlock(store, MODEL),
        "submit": lambda: queue.submit([row(correction_id=f"id-{number}")], to=str(root / "queue")),
        "pull": lambda: pull.pull(store, MODEL, "latest", root / "dest"),
    }


def killed(act, after_s: float) -> bool:
    """Let a process of its own do it, and kill it; whether it was still at it."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def check(store) -> None:
    """All that a ref points to, and what is kept behind it, is there and has its bytes."""
    for model in manifests.models(store):
        for name in refs.NAMES:
            ref = refs.read(store, model, name).ref
            for made in list(history.ancestry(store, ref.manifest))[:3] if ref else ():
                for each in made.blobs:
                    blobs.verify(store, each)


def test_a_command_that_is_killed_leaves_a_whole_store_and_succeeds_again(tmp_path):
    draw, seen = random.Random(0), Counter[str]()
    store = LocalStore.open(tmp_path / "store", create=True)
    base = register(store, save(tmp_path / "base", checkpoint()))
    for seed in range(3):
        release(store, base, seed)
    took: dict[str, float] = {}
    names = sorted(commands(tmp_path, base, draw))
    while sum(seen.values()) < KILLS:
        name = names[sum(seen.values()) % len(names)] if name_is_new(seen, names) else draw.choice(names)
        act = commands(tmp_path, base, draw)[name]
        if killed(act, draw.uniform(0, took.get(name, 0.05))):
            seen[name] += 1
        check(store)
        begun = time.monotonic()
        act()
        took[name] = min(0.5, time.monotonic() - begun)
        check(store)
    print(f"\n{sum(seen.values())} kills: {dict(seen)}")
    gc.collect(store, NOW)
    assert gc.plan(store, NOW).doomed == ()
    assert pull.check(pull.pull(store, MODEL, "latest", tmp_path / "last").path).faults == ()


def name_is_new(seen: Counter[str], names: list[str]) -> bool:
    """Every command has its turn before chance decides."""
    return sum(seen.values()) < len(names)
