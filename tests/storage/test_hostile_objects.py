"""Hostile objects in a store of two models: typed errors, no traceback, and the other model never notices.

Each case changes one stored object as somebody could who may write to the store: broken bytes, JSON with a
value of another kind, Parquet with another type, and all of that with digests, checks and refs made to fit.
Then readers are asked, drawn at random. CORRIGENDA_LONG=1 changes 2,000 objects.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import traceback
import warnings
from collections import Counter
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from queue_rows import correction, row
from releases import EDITABLE, checkpoint, raw, register, save, stage

from corrigenda.api.fleet import Fleet
from corrigenda.api.upkeep import doctor
from corrigenda.errors import CorrigendaError
from corrigenda.facts import digest_of, sha256_hex
from corrigenda.pipeline import diary
from corrigenda.pipeline.clock import Clock
from corrigenda.pipeline.ingest import plan_of, read_queue, told
from corrigenda.pipeline.night import Night, open_fleet
from corrigenda.storage.corrections import intake, ledger, queue
from corrigenda.storage.corrections.schemas import Arrival
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.releases import lease, manifests, publish, refs, snapshots
from corrigenda.storage.releases.publish import Candidate
from corrigenda.validation import results
from corrigenda.validation.gates import Gate, Verdict
from corrigenda.validation.tables import ROWS

CASES = 2_000 if os.environ.get("CORRIGENDA_LONG") else 12
ONE, TWO = "one", "two"
HOSTILE = [
    None, True, -1, 0, 1.5, 1e308, 1 << 63, 1 << 200, "", "x" * 5_000, "\x1b[2J", "\ud800", "../../etc",
    [], {}, [[]], [None], {"a": {"b": []}}, ["x"] * 100, "NaN", float("nan"), float("inf"), "2026-13-45",
    "0" * 64, "9999-12-31T23:59:59", {"digest": "0" * 64, "size": 1}, {"\x00": 1},
]  # fmt: skip
JUNK = [
    b"", b"null", b"[]", b"{}", b"0", b'"x"', b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"PAR1",
    b"PAR1PAR1",
    b'{"a": 1, "a": 2}', b"9" * 10_000, b'{"x": 1e999}', b"\x00" * 4_096, b'"\\ud800"', b"true",
]  # fmt: skip
TYPES = [
    pa.int64(),
    pa.bool_(),
    pa.binary(),
    pa.list_(pa.string()),
    pa.timestamp("ns"),
    pa.float64(),
    pa.date64(),
]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A fleet of two models with something of everything that a store holds."""
    root = tmp_path_factory.mktemp("clean")
    store = LocalStore.open(root / "store", create=True)
    for model in (ONE, TWO):
        publish_two(store, register(store, save(root / "base", checkpoint()), model))
    (root / "queue").mkdir()
    waiting = queue.as_table([row(correction_id="waits"), row(correction_id="bad", prompt="no slot")],
                             now=datetime.now(UTC))  # fmt: skip
    pq.write_table(waiting, root / "queue" / "w.parquet")
    (root / "fleet.toml").write_text(
        '[store]\nurl = "./store"\n[queue]\nurl = "./queue"\n'
        + "".join(f'[[models]]\nname = "{model}"\nsource = "x"\n' for model in (ONE, TWO))
    )
    read_queue(opened(root), [ONE, TWO])
    with lease.hold(store, ONE, "somebody"):
        pass
    return root


def publish_two(store, base):
    """A release with books, results and a night on record, and one after it."""
    for number in (1, 2):
        kept = ledger.merge(
            ledger.empty(), [Arrival(correction(correction_id=f"c{n}"), "f") for n in range(3)]
        )[0]
        kept = ledger.quarantine(kept, [kept.active[0].correction_id], "efficacy: fails", {"blame": 1.0})
        books = dict(
            zip(("ledger", "consumed"), snapshots.put(store, kept, frozenset({"0" * 64})), strict=True)
        )
        verdict = Verdict((Gate("efficacy", 1.0, 0.95, True),), {"efficacy": 1.0})
        asked = {"editing": {"x": 1}, "localization": {"method": "lga", "version": 1, "pick": 1,
                 "scores": [0.0, 1.0], "kept": [True, True], "n_facts": 3}}  # fmt: skip
        counts = {"run_id": f"run-{number}", "active": 2}
        candidate = Candidate(layer=1, settings=asked, counts=counts, gates=verdict.as_json(), **books)
        seen = refs.read(store, base.model, "latest")
        head = manifests.by_digest(store, seen.ref.manifest)
        made = stage(store, base, {EDITABLE[1]: raw(number)}, candidate, parent=head)
        publish.promote(store, made, seen=seen)
        results.append(store, pa.Table.from_pylist([probe(base.model, number)], schema=ROWS), verdict)
        night = {"model": base.model, "status": "published", "release": number, "counts": {}}
        diary.write(store, f"20260101T00000{number}-aa", night, Clock())


def probe(model, number):
    return dict.fromkeys(ROWS.names) | {
        "run_id": f"run-{number}", "release": number, "model": model, "correction_id": "c1", "probe_id": "p",
        "kind": "rewrite", "subject": "s", "prompt": "p", "expected": "e", "tokens": 1,
        "scored_at": datetime(2026, 1, number, tzinfo=UTC), "logp_expected_before": -3.0,
        "logp_expected_after": -1.0, "says_before": "x", "says_after": "e", "pass_before": False,
        "pass_after": True,
    }  # fmt: skip


def opened(root):
    return open_fleet(root / "fleet.toml")


# What is asked after each change. A reader of one model is asked of both.


def plan(root, model):
    fleet = opened(root)
    return told(plan_of(Night(fleet, model, read_queue(fleet, [ONE, TWO], dry_run=True))))


READERS = {
    "status": lambda root: [
        (m.model, m.latest, m.ledger, m.waiting_rows) for m in fleet(root).status().models
    ],
    "show": lambda root: fleet(root).show("c1"),
    "query": lambda root: fleet(root).query("from rows order by all", warn=str).num_rows,
    "history": lambda root: fleet(root).results("history", warn=str).num_rows,
    "regressions": lambda root: fleet(root).results("regressions", warn=str).num_rows,
    "gc": lambda root: fleet(root).gc(grace=-3 * datetime.resolution).doomed_bytes,
    "doctor": lambda root: len(list(doctor(root / "fleet.toml", deep=True))),
    "retract": lambda root: fleet(root).retract("c1", "c2"),
    "rejects": lambda root: intake.rejects(LocalStore.open(root / "store")).num_rows,
    "diary": lambda root: diary.read(LocalStore.open(root / "store"), "20260101T000001-aa", ONE),
    "mend": lambda root: len(list(doctor(root / "fleet.toml", mend=True))),
}
OF_A_MODEL = {
    "log": lambda root, model: [move.release for move in fleet(root).log(model)],
    "plan": plan,
    "report": lambda root, model: len(fleet(root).report(model).html) > 0,
    "pull": lambda root, model: fleet(root).pull(model, root / f"pulled-{model}").release.number,
    "lora": lambda root, model: fleet(root).export_lora(model, root / f"lora-{model}").rank,
    "card": lambda root, model: len(fleet(root).card(model, "a/b").text) > 0,
    "rollback": lambda root, model: fleet(root).rollback(model, to=1).release,
}


def fleet(root):
    return Fleet.open(root / "fleet.toml")


def outcome(ask, *arguments):
    """What a reader says; our errors by their kind; None and the place for a traceback."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ask(*arguments)
    except CorrigendaError as fault:
        return type(fault)
    except Exception as fault:
        at = traceback.extract_tb(fault.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in at if "/corrigenda/" in f.filename]
        return f"TRACEBACK {type(fault).__name__}: {str(fault)[:120]!r} at {ours[-3:]}"


def deform(draw, value):
    """JSON in which one place, drawn at random, holds something else."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        name = draw.choice(sorted(value))
        act = draw.random()
        if act < 0.1:
            return {k: v for k, v in value.items() if k != name}
        if act < 0.2:
            return value | {draw.choice(["", "x", "\x1b", "format"]): draw.choice(HOSTILE)}
        return value | {name: deform(draw, value[name])}
    if isinstance(value, list) and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        return [*value[:at], deform(draw, value[at]), *value[at + 1 :]]
    return draw.choice(HOSTILE)


def deformed_table(draw, table):
    """A table in which one column is gone, of another type, empty of values, or full of odd ones."""
    name = draw.choice(table.column_names)
    at = table.column_names.index(name)
    act = draw.randrange(5)
    if act == 0:
        return table.drop_columns([name])
    if act == 1:
        kind = draw.choice(TYPES)
        return table.set_column(at, name, pa.nulls(table.num_rows, kind))
    if act == 2:
        return pa.concat_tables([table, table])
    if act == 3:
        return table.slice(0, 0)
    odd = draw.choice(
        ["", "\x1b[2J", "{", "[]", '{"state": 1}', "x" * 10_000, "null", '{"state":"x","reason":"y"}']
    )
    if pa.types.is_string(table.schema.field(name).type):
        return table.set_column(at, name, pa.array([odd] * table.num_rows))
    extreme = draw.choice([-(2**62), 2**62, 0])
    return table.set_column(at, name, pa.array([extreme] * table.num_rows, pa.int64()))


def parquet(table):
    sink = BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def new_body(draw, body):
    """Another body for an object: of its own kind and deformed, or broken."""
    act = draw.random()
    if act < 0.2:
        return draw.choice(JUNK)
    if act < 0.3:
        return body[: draw.randrange(len(body) + 1)]
    if act < 0.4 and body:
        at = draw.randrange(len(body))
        return body[:at] + bytes([body[at] ^ (1 << draw.randrange(8))]) + body[at + 1 :]
    if body.startswith(b"PAR1"):
        return parquet(deformed_table(draw, pq.read_table(BytesIO(body))))
    if body.startswith(b"{"):
        return json.dumps(deform(draw, json.loads(body)), sort_keys=True).encode()
    return body[::-1]


def hostile(draw, root):
    """Change one object of the first model or of the whole store; says which."""
    store = LocalStore.open(root / "store")
    head = refs.read(store, ONE, "latest").ref
    release = manifests.by_digest(store, head.manifest)
    if draw.random() < 0.5:
        return fitting(draw, store, head, release)
    shared = ("cache/", "rejects/")
    own = (f"models/{ONE}/", f"/model={ONE}/")
    keys = [i.key for i in store.list("") if i.key.startswith(shared) or any(part in i.key for part in own)]
    name = draw.choice(keys)
    put(store, name, new_body(draw, store.get(name)[0]))
    return name


def fitting(draw, store, head, release):
    """A deformed ref, manifest, ledger, index or cached body under digests that are right."""
    what = draw.choice(["ref", "manifest", "ledger", "consumed", "index", "cache"])
    if what == "ref":
        plain = json.loads(refs.to_bytes(head))
        plain.pop("check")
        plain = deform(draw, plain)
        check = digest_of(plain) if isinstance(plain, dict) and utf8(plain) else ""
        body = json.dumps({**plain, "check": check} if isinstance(plain, dict) else plain, sort_keys=True)
        put(store, refs.key(ONE, draw.choice(refs.NAMES)), body.encode())
        return "ref with its check"
    if what == "cache":
        name = draw.choice([info.key for info in store.list("cache/")])
        ref = json.loads(store.get(name)[0])
        body = new_body(draw, blobs.get(store, ref["digest"]))
        put(store, name, json.dumps(blobs.put(store, body).to_json()).encode())
        return f"cached body of {name}"
    plain = json.loads(manifests.to_bytes(release))
    if what == "manifest":
        plain = deform(draw, plain)
    elif what == "index":
        name = "model.safetensors.index.json"
        body = new_body(draw, blobs.get(store, release.files[name].digest))
        plain["files"][name] = blobs.put(store, body).to_json()
    else:
        body = new_body(draw, blobs.get(store, plain[what]["digest"]))
        plain[what] = blobs.put(store, body).to_json()
    body = (
        json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")
        + b"\n"
    )
    blobs.put(store, body)
    put(store, manifests.key(ONE, release.number), body)
    ref = {"release": release.number, "manifest": sha256_hex(body), "moved_at": head.moved_at, "reason": "x",
           "previous": None}  # fmt: skip
    put(store, refs.key(ONE, "latest"), json.dumps(ref | {"check": digest_of(ref)}, sort_keys=True).encode())
    return f"{what} with its digests"


def utf8(value):
    try:
        return bool(json.dumps(value, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        return False


def put(store, key, body):
    path = store.root / key
    path.unlink()
    path.write_bytes(body)


def test_hostile_objects_are_typed_errors_and_the_other_model_never_notices(clean, tmp_path):
    expected = {
        name: outcome(ask, copy(clean, tmp_path / f"as-{name}"), TWO) for name, ask in OF_A_MODEL.items()
    }
    assert not any(isinstance(said, type) or "TRACEBACK" in str(said) for said in expected.values()), expected
    faults, kinds = Counter(), Counter()
    for case in range(CASES):
        for name, said, fault in readings(case, clean, tmp_path / "case", expected):
            kinds["typed errors" if isinstance(said, type) else "answers"] += 1
            if fault:
                faults[f"{name}: {said}"] += 1
    print(CASES, "objects,", sum(kinds.values()), "readings,", dict(kinds))
    assert not faults, "\n".join(f"{count} x {fault}" for fault, count in faults.most_common())


def readings(case, clean, place, expected):
    """One changed object, and what readers make of it: their name, what they say, whether that is a fault."""
    draw = random.Random(case)
    root = copy(clean, place)
    what = hostile(draw, root)
    for name in draw.sample(sorted(READERS), 4):
        said = outcome(READERS[name], root)
        hidden = name == "status" and (TWO, 2) not in [
            one[:2] for one in (said if isinstance(said, list) else [])
        ]
        yield f"{what}, {name}", said, hidden or is_traceback(said)
    for name in draw.sample(sorted(OF_A_MODEL), 3):
        said = outcome(OF_A_MODEL[name], root, ONE)
        yield f"{what}, {name}", said, is_traceback(said)
    root = copy(clean, place)
    hostile(random.Random(case), root)
    for name in sorted(draw.sample(sorted(OF_A_MODEL), 2), key=lambda name: name == "rollback"):
        said = outcome(OF_A_MODEL[name], root, TWO)
        yield f"{what}, {name} of the other model", said, said != expected[name]


def is_traceback(said):
    return isinstance(said, str) and said.startswith("TRACEBACK")


def copy(clean, to):
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(clean, to, copy_function=os.link, ignore=shutil.ignore_patterns("base")))
