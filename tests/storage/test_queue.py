"""The queue: what is a good row, what is rejected and why, and which files are read."""

from __future__ import annotations

from datetime import UTC, date, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from queue_rows import BAD, T0, parquet, row

from corrigenda.errors import CorrectionsError
from corrigenda.facts import EditRequest
from corrigenda.storage.corrections import queue, reading
from corrigenda.storage.corrections.queue import submit
from corrigenda.storage.corrections.reading import Problem, QueueFile
from corrigenda.storage.corrections.reasons import REMEDIES
from corrigenda.storage.corrections.schemas import (
    CORRECTIONS,
    REJECTS,
    correction_of,
    documentation_table,
    table_of,
)
from corrigenda.storage.objects.local import LocalStore


def read(rows: list[dict[str, Any]] | pa.Table) -> QueueFile:
    file = reading.read("f.parquet", parquet(rows))
    assert isinstance(file, QueueFile)
    return file


def verdict(rows: list[dict[str, Any]] | pa.Table) -> tuple[str, str] | None:
    """(reason, column) of the first reject; None when every row is good."""
    rejects = read(rows).rejects.to_pylist()
    return (rejects[0]["reason"], rejects[0]["column"]) if rejects else None


class TestRows:
    @pytest.mark.parametrize(
        ("column", "value", "reason"),
        [
            ("correction_id", None, "missing_value"),
            ("model", " ", "missing_value"),
            ("subject", "", "missing_value"),
            ("target_new", "\u3000", "missing_value"),
            ("prompt", "The mayor is", "no_slot"),
            ("prompt", "{} and {}", "many_slots"),
            ("target_new", "t" * 10_000, "too_long"),
            ("subject", "a\x00b", "control_character"),
            ("correction_id", "a\nb", "control_character"),
            ("paraphrases", ["fine", ""], "empty_entry"),
            ("paraphrases", ["p"] * 1_001, "too_many"),
            ("neighborhood", [{"prompt": "p", "answer": None}], "empty_entry"),
            ("asserted_at", datetime(1950, 1, 1, tzinfo=UTC), "time_out_of_range"),
            ("action", "erase", "unknown_action"),
            ("priority", 2**40, "wrong_type"),
            ("asserted_at", "yesterday", "wrong_type"),
        ],
    )
    def test_a_fault_has_a_reason_a_column_and_a_remedy(self, column: str, value: Any, reason: str) -> None:
        (found,) = read([row(**{column: value})]).rejects.to_pylist()
        assert (found["row"], found["reason"], found["column"]) == (0, reason, column)
        assert found["remedy"].startswith(REMEDIES[reason])

    def test_the_rows_around_a_bad_one_go_on(self) -> None:
        file = read([row(correction_id="a"), row(prompt="no slot"), row(correction_id="b")])
        assert file.good["correction_id"].to_pylist() == ["a", "b"]
        assert file.rejects["row"].to_pylist() == [1]

    def test_row_numbers_count_through_a_file_of_many_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reading, "_BATCH_ROWS", 3)
        rows = [row(correction_id=f"c{i}", prompt="{}" if i % 4 else "none") for i in range(10)]
        assert read(rows).rejects["row"].to_pylist() == [0, 4, 8]

    @pytest.mark.parametrize(
        ("subject", "prompt", "text"),
        [
            ("القدس", "عاصمة {} هي", "عاصمة القدس هي"),
            ("🏴󠁧󠁢󠁳󠁣󠁴󠁿", "The capital of {} is", "The capital of 🏴󠁧󠁢󠁳󠁣󠁴󠁿 is"),
            ("Paris", "{} is governed by", "Paris is governed by"),
            ("Paris", "The mayor of {}", "The mayor of Paris"),
            ("York", "{}, not New York, is led by", "York, not New York, is led by"),
            ("New York", "New York, {}, is in", "New York, New York, is in"),
            ("{}", "The sign {} means", "The sign {} means"),
            ("a\u0000"[:1], "{}", "a"),
            ("l1\nl2", "Q: {}\nA:", "Q: l1\nl2\nA:"),
        ],
    )
    def test_any_script_and_any_place_of_the_subject_is_taken_as_it_stands(
        self, subject: str, prompt: str, text: str
    ) -> None:
        (taken,) = read([row(subject=subject, prompt=prompt)]).good.to_pylist()
        assert (taken["subject"], taken["prompt"]) == (subject, prompt)
        assert EditRequest(subject, prompt, "x").text == text

    def test_the_longest_target_is_a_thousand_characters_not_bytes(self) -> None:
        assert verdict([row(target_new="é" * 1_000)]) is None
        assert verdict([row(target_new="é" * 1_001)]) == ("too_long", "target_new")

    def test_blanks_around_a_text_are_trimmed(self) -> None:
        (taken,) = read(
            [row(target_new=" Ada ", prompt="The mayor of {} is ", subject="\u00a0X")]
        ).good.to_pylist()
        assert (taken["target_new"], taken["prompt"], taken["subject"]) == ("Ada", "The mayor of {} is", "X")

    def test_a_retract_needs_an_id_a_model_and_a_time_only(self) -> None:
        bare = {"correction_id": "a", "action": "retract", "model": "*", "asserted_at": T0}
        assert verdict([bare]) is None
        assert correction_of(read([bare]).good.to_pylist()[0]).subject == ""
        assert verdict([bare | {"asserted_at": None}, bare]) == ("missing_value", "asserted_at")

    def test_bytes_that_are_no_utf8_reject_their_row_alone(self) -> None:
        subjects = pa.array([b"fine", b"\xff\xfe", b"good"], pa.binary())
        for kind in (pa.binary(), pa.string()):
            column = pa.Array.from_buffers(kind, 3, subjects.buffers())
            table = pa.Table.from_pylist([row(correction_id=i) for i in "abc"]).set_column(
                2, "subject", column
            )
            file = read(table)
            assert file.good["correction_id"].to_pylist() == ["a", "c"]
            assert file.rejects["reason"].to_pylist() == ["wrong_type"]

    def test_every_reason_has_a_remedy_and_every_bad_value_a_reason(self) -> None:
        loose = pa.schema([column.with_nullable(True) for column in CORRECTIONS])
        for column, values in BAD.items():
            for value in values:
                table = pa.Table.from_pylist([row(**{column: value})], schema=loose)
                found = verdict(table)
                assert found is not None, (column, value)
                assert found[0] in REMEDIES


class TestWriters:
    """Columns as other tools write them."""

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (datetime(2026, 1, 2), pa.timestamp("s")),
            (datetime(2026, 1, 2), pa.timestamp("ns")),
            (datetime(2026, 1, 2, tzinfo=UTC), pa.timestamp("ms", "America/New_York")),
            (date(2026, 1, 2), pa.date32()),
            (date(2026, 1, 2), pa.date64()),
            ("2026-01-02T01:00:00+01:00", pa.string()),
            ("2026-01-02", pa.dictionary(pa.int8(), pa.string())),
        ],
    )
    def test_times_of_any_kind_are_utc_microseconds(self, value: Any, kind: pa.DataType) -> None:
        table = pa.Table.from_pylist([row()]).drop_columns("asserted_at")
        file = read(table.append_column("asserted_at", pa.array([value], kind)))
        assert file.good["asserted_at"].to_pylist() == [datetime(2026, 1, 2, tzinfo=UTC)]

    def test_a_duckdb_file_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "q.parquet"
        duckdb.sql(
            "copy (select 'a' correction_id, 'm' model, 'S' subject, '{} is' prompt, 'T' target_new,"
            " timestamp '2026-01-01' asserted_at, ['p'] paraphrases,"
            " [{'prompt': 'x', 'answer': 'y'}] neighborhood, 3 priority)"
            f" to '{path}' (format parquet)"
        )
        file = reading.read("q.parquet", path.read_bytes())
        assert isinstance(file, QueueFile)
        (taken,) = file.good.to_pylist()
        assert (taken["neighborhood"], taken["priority"]) == ([{"prompt": "x", "answer": "y"}], 3)

    def test_a_spark_file_is_read(self) -> None:
        """Texts as bare binary or dictionary codes, times as INT96, lists of nullable elements."""
        columns = {
            "correction_id": pa.array([b"a", b"b"], pa.binary()),
            "model": pa.array(["m", "m"]).dictionary_encode(),
            "subject": pa.array(["S", "T"], pa.large_string()),
            "prompt": pa.array(["{} is", "{} is"]).dictionary_encode(),
            "target_new": pa.array([b"X", b"Y"], pa.large_binary()),
            "paraphrases": pa.array([["p"], None], pa.large_list(pa.large_string())),
            "asserted_at": pa.array([datetime(2026, 1, 2), datetime(9999, 1, 1)], pa.timestamp("us")),
        }
        sink = BytesIO()
        pq.write_table(pa.table(columns), sink, use_deprecated_int96_timestamps=True, version="1.0")
        file = reading.read("part-0000.parquet", sink.getvalue())
        assert isinstance(file, QueueFile)
        (taken,) = file.good.to_pylist()
        assert (taken["correction_id"], taken["subject"], taken["target_new"]) == ("a", "S", "X")
        assert (taken["paraphrases"], taken["asserted_at"]) == (["p"], datetime(2026, 1, 2, tzinfo=UTC))
        # Read as nanoseconds the year 9999 would wrap around to a time that nobody gave.
        assert file.rejects["reason"].to_pylist() == ["time_out_of_range"]

    def test_a_pandas_file_and_a_pandas_frame_are_read(self, tmp_path: Path) -> None:
        frame = pd.DataFrame([row(priority=3), row(correction_id="b", paraphrases=["p"], source=None)])
        frame["asserted_at"] = frame["asserted_at"].dt.tz_localize(None)
        frame.to_parquet(tmp_path / "f.parquet")
        file = reading.read("f.parquet", (tmp_path / "f.parquet").read_bytes())
        assert isinstance(file, QueueFile)
        assert file.good["priority"].to_pylist() == [3, None]
        assert file.good["paraphrases"].to_pylist() == [None, ["p"]]
        assert file.good["asserted_at"].to_pylist() == [T0, T0]
        assert submit(frame, to=str(tmp_path / "q")).accepted == 2

    def test_columns_of_its_own_are_not_looked_at(self) -> None:
        table = pa.Table.from_pylist([row()]).append_column("extra", pa.array([{"a": 1}]))
        assert verdict(table) is None

    def test_the_documentation_table_names_every_column(self) -> None:
        shown = documentation_table()
        assert all(f"| {column.name} |" in shown for column in CORRECTIONS)
        assert shown.count("\n") == len(CORRECTIONS) + 2


class TestFiles:
    @pytest.mark.parametrize("body", [b"", b"PAR1", b"PAR1\x00\x00PAR1", b"a,b\n1,2\n"])
    def test_a_file_that_is_not_whole_stays_in_the_queue(self, body: bytes) -> None:
        found = reading.read("f.parquet", body)
        assert isinstance(found, Problem)
        assert found.reason == "unreadable_file"
        assert found.remedy

    def test_a_half_written_file_is_a_problem_at_every_length(self) -> None:
        body = parquet([row()])
        assert all(isinstance(reading.read("f", body[:size]), Problem) for size in range(0, len(body), 37))

    def test_a_foreign_schema_is_rejected_as_a_whole_naming_what_is_missing(self) -> None:
        file = read([{"subject": "a", "model": "m"}, {"subject": "b", "model": "m"}])
        (found,) = file.rejects.to_pylist()
        assert (found["row"], found["reason"]) == (None, "missing_column")
        assert found["column"] == "correction_id, prompt, target_new, asserted_at"
        assert file.good.num_rows == 0

    def test_a_column_that_is_there_twice_is_rejected(self) -> None:
        table = pa.Table.from_pylist([row()])
        twice = pa.Table.from_arrays([*table.columns, table["subject"]], [*table.column_names, "subject"])
        assert verdict(twice) == ("duplicate_column", "subject")

    def test_no_rows_are_no_fault(self) -> None:
        for schema in (CORRECTIONS, pa.schema([("foreign", pa.int8())])):
            file = read(schema.empty_table())
            assert (file.good.num_rows, file.rejects.num_rows) == (0, 0)

    def test_the_listing_passes_over_bookkeeping_and_names_what_is_no_parquet(self, tmp_path: Path) -> None:
        store = LocalStore.open(tmp_path / "q", create=True)
        for name in ("b.parquet", "in/a.PARQUET", "_SUCCESS", "_temporary/x.parquet", ".x.crc", "notes.csv"):
            store.create(name, b"x")
        files, problems = queue.listing(store)
        assert [info.key for info in files] == ["b.parquet", "in/a.PARQUET"]
        assert [(p.file, p.reason) for p in problems] == [("notes.csv", "not_parquet")]


class TestSubmit:
    def test_two_lines_are_enough(self, tmp_path: Path) -> None:
        receipt = submit([{k: v for k, v in row().items() if k != "asserted_at"}], to=str(tmp_path / "q"))
        assert receipt.accepted == 1
        assert receipt.file is not None
        (taken,) = pq.read_table(tmp_path / "q" / receipt.file).to_pylist()
        assert taken["asserted_at"] <= datetime.now(UTC)

    def test_twice_is_once(self, tmp_path: Path) -> None:
        first, again = (submit([row()], to=str(tmp_path)) for _ in range(2))
        assert first == again
        assert len(list(tmp_path.glob("*.parquet"))) == 1

    @pytest.mark.parametrize(
        "kind", [pa.table, lambda table: table.to_pylist(), lambda table: duckdb.from_arrow(table)]
    )
    def test_any_data_frame_will_do(self, tmp_path: Path, kind: Any) -> None:
        frame = kind(pa.Table.from_pylist([row(priority=3), row(correction_id="b")]))
        assert submit(frame, to=LocalStore.open(tmp_path)).accepted == 2

    def test_one_bad_row_refuses_all_unless_told_otherwise(self, tmp_path: Path) -> None:
        rows = [row(), row(correction_id="b", prompt="{} {}")]
        with pytest.raises(CorrectionsError, match=r"1 of 2 rows .*many_slots") as refused:
            submit(rows, to=str(tmp_path))
        assert refused.value.exit_code == 2
        assert not list(tmp_path.iterdir())
        receipt = submit(rows, to=str(tmp_path), strict=False)
        assert (receipt.accepted, [r["row"] for r in receipt.rejects]) == (1, [1])

    @pytest.mark.parametrize(
        "rows", [7, "text", [1], [{"a": object()}], [{"correction_id": 1}, {"correction_id": []}]]
    )
    def test_what_is_no_table_is_refused_in_one_line(self, tmp_path: Path, rows: Any) -> None:
        with pytest.raises(CorrectionsError) as refused:
            submit(rows, to=str(tmp_path))
        assert "\n" not in str(refused.value)

    def test_corrections_make_rows_and_rows_make_corrections(self) -> None:
        corrections = [
            correction_of(taken) for taken in read([row(), row(paraphrases=["a"])]).good.to_pylist()
        ]
        assert [correction_of(taken) for taken in table_of(corrections).to_pylist()] == corrections

    def test_rejects_are_written_with_the_documented_columns(self) -> None:
        assert set(read([row(prompt="x")]).rejects.column_names) == set(REJECTS.names) - {
            "file",
            "file_digest",
        }


def test_the_page_lists_every_reason_code_with_its_remedy() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "hand-in-corrections.md").read_text(
        encoding="utf-8"
    )
    assert [code for code, remedy in REMEDIES.items() if f"| `{code}` | {remedy} |" not in page] == []
