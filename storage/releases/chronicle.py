"""The chronicle: what a model's releases, moves and ledgers said, in few objects instead of thousands.

Derived from manifests, refs and ledgers, and never needed: what it does not hold is read from them. So it may
be deleted, and a part that is damaged counts as absent. Parts are merged as they become many: sixteen of one
level into one of the next, so that a thousand nights are some thirty objects.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from io import BytesIO
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from corrigenda.errors import NotFoundError
from corrigenda.facts import sha256_hex
from corrigenda.storage.corrections.ledger import ledger_table
from corrigenda.storage.corrections.schemas import LEDGER
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.blobs import is_digest
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import lease, manifests, refs
from corrigenda.storage.releases.manifests import Release, check_model
from corrigenda.storage.releases.refs import Ref

FAN = 16  # parts of one level that become one of the next
MOST = 200  # releases that one update takes in: an old store gets its chronicle in some nights
_READERS = 8
# A row of a ledger as it became with a release, by the digest of that release's manifest.
CHANGES = pa.schema([pa.field("manifest", pa.string()), pa.field("by_id", pa.string()), *LEDGER])
_BOOK = b"corrigenda"  # the key of the metadata that holds releases and moves


@dataclass(frozen=True, slots=True)
class Line:
    """A release in short. `blobs` are digests of all that it needs, itself included; `size` is in bytes."""

    manifest: str
    parent: str | None
    number: int
    created_at: str
    layer: int | None
    counts: Mapping[str, Any]
    size: int
    blobs: tuple[str, ...]

    @classmethod
    def of(cls, release: Release) -> Line:
        named = {ref.digest for ref in release.blobs}
        # These may name blobs, too; to keep too much does no harm. Not the provenance, which names the
        # parent: a manifest whose files are gone would look like a damaged release.
        named |= set(_digests_in([dict(release.settings), dict(release.counts), dict(release.gates)]))
        return cls(
            manifest=release.digest,
            parent=release.parent,
            number=release.number,
            created_at=release.created_at,
            layer=release.layer,
            counts=dict(release.counts),
            size=release.size,
            blobs=(release.digest, *sorted(named)),
        )


@dataclass(slots=True)
class Chronicle:
    """What is known of a model without reading its manifests.

    lines     releases by the digest of their manifest
    moves     old refs by the digest of their bytes
    parts     the objects that this came from, and the rows that changed in their releases
    """

    lines: dict[str, Line] = field(default_factory=dict)
    moves: dict[str, Ref] = field(default_factory=dict)
    parts: dict[str, pa.Table] = field(default_factory=dict)


def prefix(model: str) -> str:
    return f"models/{check_model(model)}/chronicle/"


def load(store: ObjectStore, model: str) -> Chronicle:
    """All that the chronicle of a model holds; empty where there is none."""
    found = Chronicle()
    keys = [info.key for info in store.list(prefix(model))]
    with ThreadPoolExecutor(_READERS) as pool:
        for key, table in zip(keys, pool.map(lambda key: _read(store, key), keys), strict=True):
            if table is not None:
                _take(found, key, table)
    return found


def damaged(store: ObjectStore, model: str) -> list[str]:
    """Parts that are not what their names say: nobody reads them; what they held is read from elsewhere."""
    return [info.key for info in store.list(prefix(model)) if _read(store, info.key) is None]


def line_of(store: ObjectStore, known: Chronicle, digest: str) -> Line:
    """A release in short, from the chronicle or its manifest. Raises NotFoundError, CorruptBlobError."""
    return known.lines.get(digest) or Line.of(manifests.by_digest(store, digest))


def ancestry(store: ObjectStore, known: Chronicle, digest: str | None) -> Iterator[Line]:
    """A release and those it follows, newest first; ends where one is gone and the chronicle lacks it."""
    while digest is not None:
        try:
            line = line_of(store, known, digest)
        except NotFoundError:
            return
        yield line
        digest = line.parent


def moves(store: ObjectStore, known: Chronicle, ref: Ref | None) -> Iterator[Ref]:
    """A ref and what it was before, newest first; ends where an old one is gone."""
    while ref is not None:
        yield ref
        if ref.previous is None:
            return
        try:
            ref = known.moves.get(ref.previous) or refs.from_bytes(blobs.get(store, ref.previous))
        except NotFoundError:
            return


def changes(store: ObjectStore, line: Line) -> pa.Table:
    """Rows of a release's ledger that its parent's did not have so: CHANGES. From the ledgers themselves."""
    now = _ledger(store, line.manifest)
    before = _ledger(store, line.parent) if line.parent else LEDGER.empty_table()
    new = now.filter(pc.invert(pc.is_in(_fates(now), _fates(before))))
    others = now["correction_id"].take(pc.index_in(new["by"], now["digest"]))
    by_id = pc.if_else(pc.equal(others, new["correction_id"]), pa.scalar(None, pa.string()), others)
    whose = pa.repeat(line.manifest, new.num_rows)
    return pa.table([whose, by_id, *new.columns], schema=CHANGES)


def rows_of(store: ObjectStore, model: str, correction_id: str) -> Iterator[tuple[Line, dict[str, Any]]]:
    """What became of a correction: each changed row of it with its release, oldest first."""
    known = load(store, model)
    held = pa.concat_tables(
        [CHANGES.empty_table(), *(_of_id(table, correction_id) for table in known.parts.values())]
    ).to_pylist()
    past = ancestry(store, known, refs.require(store, model, "latest").manifest)
    for line in reversed(list(past)):
        if line.manifest in known.lines:
            yield from ((line, row) for row in held if row["manifest"] == line.manifest)
        else:
            found = _of_id(changes(store, line), correction_id).to_pylist()
            yield from ((line, row) for row in found)


def update(store: ObjectStore, model: str) -> int:
    """Take in what has happened since the last time, under the model's lease; how many releases were new.

    Raises BusyError, and what reading the releases raises.
    """
    with lease.ensure(store, model):
        known = load(store, model)
        heads = [ref for name in refs.NAMES if (ref := refs.peek(store, model, name).ref)]
        past = (line for ref in heads for line in ancestry(store, known, ref.manifest))
        new = islice((line for line in past if line.manifest not in known.lines), MOST)
        taken = {line.manifest: line for line in new}
        said = ((sha256_hex(refs.to_bytes(r)), r) for head in heads for r in moves(store, known, head))
        moved = dict(islice(((digest, ref) for digest, ref in said if digest not in known.moves), MOST))
        if taken or moved:
            rows = [changes(store, line) for line in taken.values()]
            table = pa.concat_tables([CHANGES.empty_table(), *rows])
            _write(store, model, 0, taken.values(), moved, table)
        _merge(store, model, known)
        return len(taken)


def _merge(store: ObjectStore, model: str, known: Chronicle) -> None:
    """Many parts of a level become one of the next; what was merged goes when the new one is there."""
    by_level: dict[int, list[str]] = {}
    for key in sorted(known.parts):
        by_level.setdefault(_level(key), []).append(key)
    for level, keys in by_level.items():
        if len(keys) >= FAN:
            merged = Chronicle()
            for key in keys:
                _take(merged, key, known.parts[key])
            table = pa.concat_tables(list(merged.parts.values())).replace_schema_metadata()
            _write(store, model, level + 1, merged.lines.values(), merged.moves, table)
            for key in keys:
                store.delete(key)


def _write(
    store: ObjectStore,
    model: str,
    level: int,
    lines: Iterable[Line],
    moved: Mapping[str, Ref],
    table: pa.Table,
) -> None:
    book = {
        "releases": [asdict(line) for line in lines],
        "moves": {digest: asdict(ref) for digest, ref in moved.items()},
    }
    said = json.dumps(book, sort_keys=True, ensure_ascii=False).encode()
    sink = BytesIO()
    pq.write_table(table.replace_schema_metadata({_BOOK: said}), sink, compression="zstd")
    body = sink.getvalue()
    store.create(f"{prefix(model)}{level}-{sha256_hex(body)}.parquet", body)


def _read(store: ObjectStore, key: str) -> pa.Table | None:
    """A part; None when it is gone, merged into another, or is not what its name says."""
    try:
        body, _ = store.get(key)
        if sha256_hex(body) != key.rpartition("-")[2].removesuffix(".parquet"):
            return None
        # Not by threads of Arrow's own: a command that ends while they do is aborted now and then.
        table = pq.ParquetFile(BytesIO(body)).read(use_threads=False)
        _take(Chronicle(), key, table)
        return table
    except (NotFoundError, pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _take(found: Chronicle, key: str, table: pa.Table) -> None:
    book = json.loads(table.schema.metadata[_BOOK])
    for plain in book["releases"]:
        line = Line(**plain | {"blobs": tuple(plain["blobs"])})
        found.lines[line.manifest] = line
    found.moves |= {digest: Ref(**plain) for digest, plain in book["moves"].items()}
    found.parts[key] = table


def _level(key: str) -> int:
    name = key.rpartition("/")[2].partition("-")[0]
    return int(name) if name.isascii() and name.isdigit() else 0


def _of_id(table: pa.Table, correction_id: str) -> pa.Table:
    return table.filter(pc.equal(table["correction_id"], correction_id)).replace_schema_metadata()


def _ledger(store: ObjectStore, manifest: str) -> pa.Table:
    """The rows of a release's ledger; none for the base, or a release that is gone."""
    try:
        ref = manifests.by_digest(store, manifest).ledger
        return ledger_table(blobs.get(store, ref.digest)) if ref else LEDGER.empty_table()
    except NotFoundError:
        return LEDGER.empty_table()


def _fates(table: pa.Table) -> pa.ChunkedArray | pa.Array:
    """Version and state of every row as one text: what must differ for a row to have changed."""
    columns = (pc.fill_null(table[name], "") for name in ("digest", "state", "by", "why"))
    return pc.binary_join_element_wise(*columns, "\x1f")


def _digests_in(value: Any) -> Iterator[str]:
    if is_digest(value):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _digests_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _digests_in(inner)
