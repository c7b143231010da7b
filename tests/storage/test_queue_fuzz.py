"""Malformed rows and files: never an error, never a lost good row.

CORRIGENDA_TEST_SCALE multiplies the number of cases.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from queue_rows import bad_rows, good_rows, parquet, row, typed, writer_schemas

from corrigenda.errors import CorrectionsError
from corrigenda.storage.corrections import reading
from corrigenda.storage.corrections.formats import understand
from corrigenda.storage.corrections.reading import Problem, QueueFile
from corrigenda.storage.corrections.reasons import REMEDIES

SCALE = float(os.environ.get("CORRIGENDA_TEST_SCALE", "1"))


def cases(count: int) -> settings:
    return settings(
        max_examples=max(1, round(count * SCALE)),
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


marked = st.lists(
    st.tuples(st.just(True), good_rows()) | st.tuples(st.just(False), bad_rows()), min_size=1, max_size=8
).map(lambda rows: [(good, _own_id(number, given)) for number, (good, given) in enumerate(rows)])


def _own_id(number: int, given_row: dict[str, Any]) -> dict[str, Any]:
    """Good rows of one id and time would be two facts under one name."""
    name = given_row["correction_id"]
    return given_row | (
        {"correction_id": f"{number} {name}"}
        if name and len(name) < 100 and name.strip() and "\x00" not in name and "\n" not in name
        else {}
    )


@cases(120)
@given(marked, writer_schemas())
def test_every_row_of_any_writer_is_taken_or_rejected_and_no_good_one_is_lost(
    rows: list[tuple[bool, dict[str, Any]]], schema: pa.Schema
) -> None:
    file = reading.read("f.parquet", parquet([_as_written(given, schema) for _, given in rows], schema))
    assert isinstance(file, QueueFile)
    refused = {found["row"]: found for found in file.rejects.to_pylist()}
    assert file.good.num_rows + len(refused) == len(rows)
    assert set(refused) == {number for number, (good, _) in enumerate(rows) if not good}
    assert all(found["remedy"].startswith(REMEDIES[found["reason"]]) for found in refused.values())
    wanted = [given for good, given in rows if good]
    for taken, given_row in zip(file.good.to_pylist(), wanted, strict=True):
        assert _same(taken, given_row)


def _as_written(given_row: dict[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """The row with values that fit the writer's types."""
    return {name: _fitting(given_row.get(name), schema.field(name).type) for name in schema.names}


def _fitting(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, str) and pa.types.is_binary(kind):
        return value.encode()
    if isinstance(value, list) and pa.types.is_binary(kind.value_type):
        return [one if one is None else one.encode() for one in value]
    return value


def _same(taken: dict[str, Any], given_row: dict[str, Any]) -> bool:
    texts = ("correction_id", "subject", "target_new", "prompt")
    lists = ("aliases", "paraphrases", "neighborhood", "entails", "question")
    return (
        all(taken[name] == typed(given_row[name]) for name in texts)
        and all(taken[name] == _each_typed(given_row[name]) for name in lists)
        and all(taken[name] == given_row[name] for name in ("asserted_at", "priority", "source"))
        and taken["action"] == "upsert"
    )


def _each_typed(entries: Any) -> Any:
    if isinstance(entries, dict):
        return {name: typed(text) for name, text in entries.items()}
    if isinstance(entries, list):
        return [_each_typed(entry) for entry in entries]
    return entries if entries is None else typed(entries)


EDITS = st.sampled_from(["cut", "flip", "zero", "drop", "repeat", "insert"])


@cases(250)
@given(
    st.lists(good_rows(), max_size=4),
    st.lists(st.tuples(EDITS, st.floats(0, 1), st.binary(max_size=9)), max_size=4),
)
def test_damaged_bytes_are_a_problem_or_a_table_but_never_an_error(
    rows: list[dict[str, Any]], edits: list[tuple[str, float, bytes]]
) -> None:
    body = parquet(rows or [row()])
    for edit, where, noise in edits:
        body = _damaged(body, edit, int(where * len(body)), noise)
    file = reading.read("f.parquet", body)
    assert isinstance(file, Problem) or set(file.good.column_names) >= {"correction_id"}
    if isinstance(file, Problem):
        assert file.reason == "unreadable_file"
        assert "\n" not in file.detail


def _damaged(body: bytes, edit: str, at: int, noise: bytes) -> bytes:
    before, after = body[:at], body[at:]
    size = len(noise)
    return {
        "cut": before,
        "flip": before + bytes(byte ^ 0xFF for byte in after[:1]) + after[1:],
        "zero": before + bytes(size) + after[size:],
        "drop": before + after[size:],
        "repeat": before + after + after,
        "insert": before + noise + after,
    }[edit]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
own = ("correction_id", "model", "subject", "prompt", "target_new", "asserted_at", "paraphrases", "action")
theirs = ("requested_rewrite", "case_id", "src", "alt", "locality", "rephrase_prompt", "neighborhood")
fields = st.sampled_from(own + theirs)
records = st.one_of(
    st.dictionaries(fields, anything, max_size=6),
    st.builds(lambda noise, base: base | noise, st.dictionaries(fields, anything, max_size=2), good_rows()),
    st.builds(lambda rewrite: {"requested_rewrite": rewrite}, anything | st.lists(anything, max_size=2)),
)


@cases(150)
@given(st.lists(records, max_size=4), st.sampled_from([".json", ".jsonl", ".csv"]), st.none() | st.just("m"))
def test_records_of_any_shape_give_rows_and_rejects_or_one_error(
    tmp_path: Path, found: list[dict[str, Any]], suffix: str, model: str | None
) -> None:
    path = tmp_path / f"records{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(found, default=str))
    elif suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(one, default=str) for one in found))
    else:
        names = sorted({name for one in found for name in one})
        lines = [",".join(json.dumps(str(one.get(name, ""))) for name in names) for one in found]
        path.write_text("\n".join([",".join(names), *lines]), errors="replace")
    _understood_or_one_line(path, model)


@cases(80)
@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: text.encode(errors="replace")))
def test_any_bytes_handed_in_give_at_worst_one_line(tmp_path: Path, body: bytes) -> None:
    for suffix in (".parquet", ".csv", ".json", ".jsonl"):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(body)
        _understood_or_one_line(path, "m")


def _understood_or_one_line(path: Path, model: str | None) -> None:
    try:
        found = understand(path, model=model)
    except CorrectionsError as fault:
        assert fault.exit_code == 2
        assert "\n" not in str(fault)
    else:
        json.dumps(found.rejects)
        assert all(reject["remedy"] for reject in found.rejects)


@pytest.mark.parametrize(
    "kind", [pa.bool_(), pa.struct([("a", pa.int8())]), pa.float64(), pa.list_(pa.bool_())]
)
@pytest.mark.parametrize(
    "name", ["target_old", "source", "aliases", "question", "paraphrases", "entails", "priority", "reason"]
)
def test_a_column_of_a_strange_type_rejects_only_the_rows_that_hold_something(
    name: str, kind: pa.DataType
) -> None:
    odd = {pa.bool_(): True, pa.float64(): 1.5}.get(kind, [True] if pa.types.is_list(kind) else {"a": 1})
    base = pa.Table.from_pylist([row(correction_id="a"), row(correction_id="b")])
    table = base.append_column(name, pa.array([odd, None], kind))
    file = reading.read("f.parquet", parquet(table))
    assert isinstance(file, QueueFile)
    assert file.good["correction_id"].to_pylist() == ["b"]
    assert [(r["row"], r["reason"], r["column"]) for r in file.rejects.to_pylist()] == [
        (0, "wrong_type", name)
    ]
