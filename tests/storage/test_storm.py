"""A storm of processes on one store: whatever they do to each other, what is published is pulled whole.

Some seconds with a few processes as a matter of course. CORRIGENDA_STORM=120 has sixteen of them at it for so
many seconds, on a directory and on SeaweedFS, without and with kills.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
from releases import MODEL, checkpoint, register, release, save
from store_servers import location

from corrigenda.errors import CorrigendaError
from corrigenda.storage.delivery import pull
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.objects.s3 import S3Store
from corrigenda.storage.releases import chronicle, doctor, gc, history, lease, manifests, mend, publish, refs

LONG = float(os.environ.get("CORRIGENDA_STORM", "0"))
SECONDS = LONG or 4.0
ROLES = ["run", "run", "pull", "gc", "rollback", "register"]
if LONG:
    ROLES += ["run", "run", "run", "pull", "pull", "pull", "gc", "rollback", "rollback", "mend"]
KEPT = gc.Policy(grace=timedelta(seconds=2), releases=3)
pytestmark = pytest.mark.timeout(SECONDS * 10 + 300)


def opened(address: str):
    """The store at an address: every process opens it by itself."""
    if not address.startswith("http"):
        return LocalStore.open(Path(address))
    endpoint, _, prefix = address.partition("#")
    return S3Store.connect(location(endpoint, prefix))


def act(role: str, store, draw: random.Random, scratch: Path) -> None:
    """One deed of a role; few seeds, so that the same bytes come, go and come again."""
    match role:
        case "run":
            with lease.hold(store, MODEL, "run", patience_s=1.0):
                release(store, manifests.read(store, MODEL, 0), draw.randrange(6))
                chronicle.update(store, MODEL)
        case "rollback":
            publish.rollback(store, MODEL, to=draw.choice(manifests.numbers(store, MODEL)[-6:]))
        case "gc":
            gc.collect(store, KEPT)
            time.sleep(0.2)
        case "register":
            base = save(scratch / "base", checkpoint(seed=draw.randrange(3)))
            register(store, base, f"m{draw.randrange(9**9)}")
            time.sleep(0.5)
        case "mend":
            list(mend.mend(store, MODEL))
            time.sleep(0.2)
        case "pull":
            got = pull.pull(store, MODEL, "latest", scratch / "dest")
            assert pull.check(got.path).faults == ()


def live(role: str, seed: int, address: str, scratch: Path, end: float, told) -> None:
    """A process of the storm: what became of its deeds."""
    store, draw, seen = opened(address), random.Random(seed), Counter[str]()
    scratch.mkdir(parents=True, exist_ok=True)
    while time.time() < end:
        try:
            act(role, store, draw, scratch)
            seen[f"{role}: done"] += 1
        except CorrigendaError as fault:
            seen[f"{role}: {type(fault).__name__}: {fault.what}"] += 1
            time.sleep(draw.uniform(0, 0.3))
        except BaseException as fault:
            seen[f"TRACEBACK {role}: {type(fault).__name__}: {fault}"] += 1
    told.put(dict(seen))


def storm(address: str, tmp_path: Path, kills: bool) -> Counter[str]:
    """Let them all at it; what they told. The killed ones tell nothing, and are started again."""
    context = multiprocessing.get_context("fork")
    told, end, draw = context.Queue(), time.time() + SECONDS, random.Random(0)

    def begin(number: int):
        place = tmp_path / f"{ROLES[number]}{number}"
        process = context.Process(
            target=live, args=(ROLES[number], draw.randrange(10**6), address, place, end, told)
        )
        process.start()
        return process

    going = {number: begin(number) for number in range(len(ROLES))}
    seen: Counter[str] = Counter()
    while kills and time.time() < end - 1:
        time.sleep(draw.uniform(0.1, 0.5))
        number = draw.choice(list(going))
        os.kill(going[number].pid, signal.SIGKILL)
        going[number].join()
        going[number] = begin(number)
        seen["kills"] += 1
    while any(process.is_alive() for process in going.values()) or not told.empty():
        while not told.empty():
            seen.update(told.get())
        time.sleep(0.05)
    return seen


STORES = ["local", "weed"] if LONG else ["local"]


@pytest.mark.parametrize("kills", [False, True], ids=["", "kills"])
@pytest.mark.parametrize("kind", STORES)
def test_what_is_published_is_pulled_whole_whatever_the_storm(request, tmp_path, kind, kills):
    if kind == "local":
        address = str(tmp_path / "store")
        store = LocalStore.open(Path(address), create=True)
    else:
        address = f"{request.getfixturevalue('weed_endpoint')}#{tmp_path.name}"
        store = opened(address)
    base = register(store, save(tmp_path / "base", checkpoint()))
    for seed in range(3):
        release(store, base, seed)
    seen = storm(address, tmp_path, kills)
    print(f"\n{kind}{' with kills' if kills else ''}, {SECONDS:.0f} s, {len(ROLES)} processes:")
    for what, times in sorted(seen.items()):
        print(f"  {times:6} {what}")
    assert not [what for what in seen if what.startswith("TRACEBACK")]
    faults = [f for f in doctor.examine(store, deep=True) if f.level == "fault"]
    assert faults == []
    whole = 0
    for model in manifests.models(store):
        if refs.read(store, model, "latest").ref is None:
            continue  # its registration was killed
        for number, made in enumerate(history.of_model(store, model)):
            if number < KEPT.releases:
                pull.materialise(store, made, tmp_path / "last" / f"{model}-{made.number}")
                whole += 1
    print(f"  {whole} releases pulled whole")
    assert whole
