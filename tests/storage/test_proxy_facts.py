"""Proxy facts: three kinds of file, one meaning; a file that is wrong says where."""

from __future__ import annotations

import json
from dataclasses import asdict

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from corrigenda.errors import NotFoundError, UsageError
from corrigenda.facts import Neighbour, ProxyFact
from corrigenda.storage.corrections.proxy_facts import pool_digest, read_proxy_facts

FACTS = (
    ProxyFact("Lake Baikal", "{} lies in", "Russia", "Peru", "The country of Lake Baikal is", None),
    ProxyFact("Nauru", "{} is an", "island", "opera", None, Neighbour("Tuvalu is an", "island")),
)


def written(folder, kind):
    path = folder / f"facts.{kind}"
    rows = [asdict(fact) for fact in FACTS]
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif kind == "parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        flat = [
            {k: row[k] for k in ("subject", "prompt", "target_true", "target_new", "rephrase")}
            | {f"neighbour_{k}": (row["neighbour"] or {}).get(k) for k in ("prompt", "answer")}
            for row in rows
        ]
        pa.csv.write_csv(pa.Table.from_pylist(flat), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_every_kind_of_file_says_the_same(tmp_path, kind):
    found = read_proxy_facts(written(tmp_path, kind))
    assert found == FACTS and pool_digest(found) == pool_digest(FACTS)


def test_the_digest_names_content_and_order():
    assert len({pool_digest(pool) for pool in (FACTS, FACTS[::-1], FACTS[:1])}) == 3


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"subject": "", "prompt": "{} is", "target_true": "a", "target_new": "b"}, "row 0: subject missing"),
        ({"subject": "x", "prompt": "x is", "target_true": "a", "target_new": "b"}, "exactly one {}"),
        ({"subject": "x"}, "prompt, target_true, target_new missing"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, row, says):
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(UsageError) as fault:
        read_proxy_facts(path)
    assert says in str(fault.value)


def test_a_file_that_is_not_there_or_not_readable(tmp_path):
    with pytest.raises(NotFoundError):
        read_proxy_facts(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="such a file"):
        read_proxy_facts(tmp_path / "none.xlsx")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="cannot be read"):
        read_proxy_facts(broken)
