"""Files as people write them: nothing at the door becomes another fact, and every row is accounted for."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import openpyxl
import pyarrow as pa
import pytest
from botocore.exceptions import ClientError
from queue_rows import parquet, row

from corrigenda.errors import (
    CorrectionsError,
    ObjectUnreadableError,
    SetupError,
    StorageError,
    UnknownOutcomeError,
)
from corrigenda.storage.corrections import queue, reading
from corrigenda.storage.corrections.formats import Understood, understand
from corrigenda.storage.corrections.reading import QueueFile
from corrigenda.storage.corrections.slots import SlotError, slotted
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.objects.s3_answers import explained

HEAD = "correction_id,model,subject,prompt,target_new\n"
LINE = "{0},*,Orr{0},The reeve of {{}} is,Ann {0}"


def hand_in(folder: Path, content: str | bytes | Any, name: str = "f.csv", **options: Any) -> Understood:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    body = content if isinstance(content, bytes | str) else json.dumps(content)
    path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return understand(path, **options)


def verdicts(found: Understood) -> list[tuple[int, str]]:
    return [(row["row"], row["reason"]) for row in found.rejects]


def targets(found: Understood) -> list[str]:
    return [str(target) for target in found.good["target_new"].to_pylist()]


def rows_of_csv(*rows: str) -> str:
    return HEAD + "\n".join(rows) + "\n"


class TestCsv:
    @pytest.mark.parametrize(
        ("lines", "rejects", "taken"),
        [
            # More cells than columns: an unquoted comma has moved or cut a text.
            (["a,*,Orr,The reeve of {} is,Ann, O.B."], [(0, "too_many_cells")], []),
            (["a,*,Orr,As of 2031, the reeve of {} is,Ann"], [(0, "too_many_cells")], []),
            (["a,*,Orr,The reeve of {}, a port, is,Ann"], [(0, "too_many_cells")], []),
            (["a,*,Orr, Upper,{} is,Ann", LINE.format("b")], [(0, "too_many_cells")], ["Ann b"]),
            (["a,*,Orr,{} is,Ann,,"], [(0, "too_many_cells")], []),
            (["a,*,Orr,{} is,Ann,,", "b,*,Orm,{} is,Bea,,"], [], ["Ann", "Bea"]),
            (["a,*,Orr,{} is,Ann", "b,*,Orm,{} is,Bea,,"], [(1, "too_many_cells")], ["Ann"]),
            (["a,*,Orr,{} is,Ann,x"], [(0, "too_many_cells")], []),
            (["a,*,Orr,{} is"], [(0, "too_few_cells")], []),
            (["a,*,Orr", "", LINE.format("b"), "c"], [(0, "too_few_cells"), (2, "too_few_cells")], ["Ann b"]),
            (['a,*,Orr,"{}, a port, is","Ann, O.B."'], [], ["Ann, O.B."]),
            ([",,,,", LINE.format("a"), ",,,,"], [], ["Ann a"]),
            # Quotes: what swallows others, or ends in the middle, is counted line by line.
            (['a,*,Orr,"The \\"reeve\\" of {} is",Ann', LINE.format("b")], [(0, "broken_quotes")], ["Ann b"]),
            (['a,*,Orr,"{} is"x,Ann', LINE.format("b")], [(0, "broken_quotes")], ["Ann b"]),
            (['a,*,Orr,"{} is" "x",Ann'], [(0, "broken_quotes")], []),
            (['a,*,Orr,"{} is,Ann'], [(0, "broken_quotes")], []),
            (
                [LINE.format("a"), 'b,*,Orr,"{} is,Ann', LINE.format("c"), LINE.format("d")],
                [(1, "broken_quotes"), (2, "broken_quotes"), (3, "broken_quotes")],
                ["Ann a"],
            ),
            (
                ['a,*,Orr,{} is,"Ann', LINE.format("b"), 'c,*,Orr,{} is,Bea"', LINE.format("d")],
                [(0, "swallowed_rows")],
                ["Ann d"],
            ),
            (
                ['a,*,"Orr,{} is,Ann', 'b,*,Orm",{} is,Bea', LINE.format("c")],
                [(0, "swallowed_rows")],
                ["Ann c"],
            ),
            (['a,*,Orr,"Say ""{}"" is",Ann'], [], ["Ann"]),
            (['a,*,Orr,{} is 5" by 3",Ann'], [], ["Ann"]),
            (['a,*,Orr,"Q: {}', 'A:",Ann', LINE.format("b")], [], ["Ann", "Ann b"]),
            (["a,*,Orr,{} is,Ann\x00"], [(0, "control_character")], []),
        ],
    )
    def test_every_row_is_taken_or_rejected_under_its_number(
        self, tmp_path: Path, lines: list[str], rejects: list[tuple[int, str]], taken: list[str]
    ) -> None:
        found = hand_in(tmp_path, rows_of_csv(*lines))
        assert (verdicts(found), targets(found)) == (rejects, taken)

    @pytest.mark.parametrize(
        "text",
        [
            "sep=;\r\n" + HEAD.replace(",", ";").strip() + "\r\na;*;Orr;{} is;Ann, O.B.\r\n",
            "sep=|\n" + HEAD.replace(",", "|") + "a|*|Orr|{} is|Ann, O.B.\n",
            "SEP=\t\n" + HEAD.replace(",", "\t") + "a\t*\tOrr\t{} is\tAnn, O.B.\n",
            HEAD.replace(",", "|") + "a|*|Orr|{} is|Ann, O.B.\n",
            HEAD.replace(",", "\t") + "a\t*\tOrr\t{} is\tAnn, O.B.\n",
            HEAD.upper() + 'a,*,Orr,{} is,"Ann, O.B."\n',
            " Correction ID , Model,Subject ,Prompt, target-new\n" + 'a,*,Orr,{} is,"Ann, O.B."\n',
            '"correction_id","model","subject","prompt","target_new"\na,*,Orr,{} is,"Ann, O.B."',
            "\ufeff" + HEAD + 'a,*,Orr,{} is,"Ann, O.B."\n',
            HEAD.strip() + ",\n" + 'a,*,Orr,{} is,"Ann, O.B.",\n',
            "\n\n" + HEAD + '\na,*,Orr,{} is,"Ann, O.B."\n\n',
            HEAD.replace("\n", "\r") + 'a,*,Orr,{} is,"Ann, O.B."\r',
            HEAD.replace(",", ", ") + 'a, *, Orr, {} is, "Ann, O.B."\n',
        ],
    )
    def test_headers_and_delimiters_as_spreadsheets_write_them(self, tmp_path: Path, text: str) -> None:
        assert targets(hand_in(tmp_path, text)) == ["Ann, O.B."]

    @pytest.mark.parametrize(
        ("head", "says"),
        [
            ("correction_id,model,subject,prompt,prompt,target_new", "prompt twice"),
            ("correction_id,model,Subject,subject ,prompt,target_new", "subject twice"),
            ("correction_id,model,subject,prompt,TARGET_NEW,target-new", "target_new twice"),
            ('correction_id,model,"subject,prompt,target_new', "quote is not closed"),
            ("correction_id,model,subjects,prompt,target_new,x", "is `subjects` meant for `subject`"),
            ("correction_id,model,subjekt,prompt,target_new", "is `subjekt` meant for `subject`"),
            ("correction_id,model,subject,prompts,target_new", "is `prompts` meant for `prompt`"),
            ("correction_id,model,subject,prompt,targetnew", "is `targetnew` meant for `target_new`"),
            ("one,two,three,four,five", "none of the shapes"),
            ("sep=;;\ncorrection_id;model", "one character"),
        ],
    )
    def test_a_header_that_cannot_be_right_is_refused_with_its_reason(
        self, tmp_path: Path, head: str, says: str
    ) -> None:
        cells = ",".join("abcdef"[: head.splitlines()[-1].count(",") + 1])
        with pytest.raises(CorrectionsError, match=says):
            hand_in(tmp_path, f"{head}\n{cells}\n")

    @pytest.mark.parametrize(
        "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "utf-16-le", "mac_roman"]
    )
    @pytest.mark.parametrize("packed", [False, True])
    def test_text_of_an_encoding_that_is_marked_or_named_is_read(
        self, tmp_path: Path, encoding: str, packed: bool
    ) -> None:
        body = rows_of_csv("a,*,Orr,{} is,Zoë Håland").encode(encoding)
        told = None if encoding.startswith(("utf-8", "utf-32")) or encoding == "utf-16" else encoding
        name = "f.csv.gz" if packed else "f.csv"
        found = hand_in(tmp_path, gzip.compress(body) if packed else body, name, encoding=told)
        assert targets(found) == ["Zoë Håland"]

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ("a,*,Orr,{} is,Zoë".encode("cp1252"), "line 2 is no UTF-8.*'a,\\*,Orr,{} is,Zoë'"),
            ("a,*,Orr,{} is,Zoë".encode("utf-16-le"), "UTF-8"),
            (b"\xff", "--encoding"),
        ],
    )
    def test_no_encoding_is_guessed(self, tmp_path: Path, body: bytes, says: str) -> None:
        with pytest.raises(CorrectionsError, match=says):
            hand_in(tmp_path, HEAD.encode() + body)

    def test_what_is_packed_and_cut_off_is_refused(self, tmp_path: Path) -> None:
        whole = rows_of_csv(*(LINE.format(n) for n in range(50))).encode()
        zstd = pa.Codec("zstd").compress(whole, asbytes=True)
        assert hand_in(tmp_path, zstd, "f.csv.zst").good.num_rows == 50
        for packed in (gzip.compress(whole), zstd):
            with pytest.raises(CorrectionsError, match="damaged or cut off"):
                hand_in(tmp_path, packed[: len(packed) // 2])

    @pytest.mark.parametrize("text", ["", "\n", HEAD, "sep=;\n", HEAD + "\n\n", "[]", " [ ] "])
    def test_an_export_without_rows_is_no_error(self, tmp_path: Path, text: str) -> None:
        found = hand_in(tmp_path, text)
        assert (found.good.num_rows, found.rejects) == (0, ())
        assert any("no row" in note or "empty" in note for note in found.notes)

    def test_columns_that_nobody_reads_are_named_with_what_they_may_mean(self, tmp_path: Path) -> None:
        head = "correction_id,model,subject,prompt,target_new,paraphrase,colour\n"
        found = hand_in(tmp_path, head + "a,*,Orr,{} is,Ann,Who leads Orr?,red\n")
        assert [note for note in found.notes if "not taken" in note] == [
            "paraphrase is not taken; is it paraphrases?",
            "colour is not taken",
        ]

    @pytest.mark.parametrize("name", ["1.23E+15", "1,23E+15", "4E12", "9.99999e+20"])
    def test_an_id_that_a_spreadsheet_rounded_is_no_id(self, tmp_path: Path, name: str) -> None:
        assert verdicts(hand_in(tmp_path, rows_of_csv(f'"{name}",*,Orr,{{}} is,Ann'))) == [(0, "rounded_id")]


class TestExcel:
    def workbook(self, *rows: list[Any], sheets: int = 1) -> bytes:
        book = openpyxl.Workbook()
        for one in rows:
            book.active.append(one)
        for number in range(1, sheets):
            book.create_sheet(f"more {number}").append(["x"])
            book.worksheets[number].append(["y"])
        sink = BytesIO()
        book.save(sink)
        return sink.getvalue()

    def test_a_sheet_is_a_table(self, tmp_path: Path) -> None:
        at = datetime(2026, 2, 3)
        head = ["Correction ID", "model", "subject", "prompt", "target_new", "asserted_at", "priority"]
        body = self.workbook(head, [7, "*", "Orr", "{} is", 1990, at, 2.0], [None] * 7, sheets=2)
        found = hand_in(tmp_path, body, "f.xlsx")
        (taken,) = found.good.to_pylist()
        assert (taken["correction_id"], taken["target_new"], taken["priority"]) == ("7", "1990", 2)
        assert taken["asserted_at"] == at.replace(tzinfo=UTC)
        assert "sheet 'more 1' is not read" in found.notes

    @pytest.mark.parametrize(
        ("column", "cell", "reason"),
        [
            (0, 1234567890123456789, "rounded_id"),
            (4, "=A2", "not_computed"),
            (4, datetime(2026, 1, 2), "wrong_type"),
            (4, 3.5, "wrong_type"),
            (4, True, "wrong_type"),
            (2, "  ", "missing_value"),
        ],
    )
    def test_what_a_spreadsheet_made_of_a_text_is_rejected(
        self, tmp_path: Path, column: int, cell: Any, reason: str
    ) -> None:
        line: list[Any] = ["a", "*", "Orr", "{} is", "Ann"]
        line[column] = cell
        found = hand_in(tmp_path, self.workbook(HEAD.strip().split(","), line), "f.xlsx")
        assert verdicts(found) == [(0, reason)]


class TestJson:
    @pytest.mark.parametrize("name", ["f.json", "f.jsonl", "f.txt", "export"])
    @pytest.mark.parametrize("indent", [None, 2])
    def test_objects_one_after_the_other_are_read_under_any_name(
        self, tmp_path: Path, name: str, indent: int | None
    ) -> None:
        lines = [
            {"correction_id": i, "model": "*", "subject": i, "prompt": "{} is", "target_new": i} for i in "ab"
        ]
        found = hand_in(tmp_path, "\n".join(json.dumps(line, indent=indent) for line in lines), name)
        assert targets(found) == ["a", "b"]

    @pytest.mark.parametrize(
        ("text", "rejects"),
        [
            ('{"subject": "a", "prompt": "{} is", "target_new": "b"', [(0, "broken_json")]),
            ("[1]", [(0, "no_object")]),
            ('{"subject": "a", "subject": "b", "prompt": "{} is", "target_new": "b"}', [(0, "name_twice")]),
            ('{"subject": "a", "Subject": "b", "prompt": "{} is", "target_new": "b"}', [(0, "name_twice")]),
            (
                '{"subject": "a", "prompt": "{} is", "target_new": {"str": "b", "str": "c"}}',
                [(0, "name_twice")],
            ),
            ('{"subject": "a", "prompt": "{} is", "target_new": 1.5}', [(0, "wrong_type")]),
            ('{"subject": "a", "prompt": "{} is", "target_new": NaN}', [(0, "wrong_type")]),
            ('{"subject": "\\ud800", "prompt": "{} is", "target_new": "b"}', [(0, "wrong_type")]),
            ('{"subject": true, "prompt": "{} is", "target_new": "b"}', [(0, "wrong_type")]),
            ('{"subject": ["a"], "prompt": "{} is", "target_new": "b"}', [(0, "wrong_type")]),
            ('"text"', [(0, "no_object")]),
        ],
    )
    def test_a_broken_record_is_rejected_alone(
        self, tmp_path: Path, text: str, rejects: list[tuple[int, str]]
    ) -> None:
        good = '{"subject": "z", "prompt": "{} is", "target_new": "y"}'
        both = f"[{text}, {good}]" if text != "[1]" and rejects[0][1] != "broken_json" else f"{text}\n{good}"
        found = hand_in(tmp_path, both, "f.json", model="m")
        assert (verdicts(found), targets(found)) == (rejects, ["y"])


RECORD = {"subject": "Ida Moe", "prompt": "Ida Moe plays the", "target_new": "lute"}


class TestForeign:
    @pytest.mark.parametrize(
        ("fields", "wanted"),
        [
            ({"target_old": "harp"}, {"target_old": "harp"}),
            ({"ground_truth": ["harp"]}, {"target_old": "harp"}),
            ({"ground_truth": "harp", "asserted_at": "2026-01-01"}, {"target_old": "harp"}),
            ({"rephrase_prompt": "What does Ida play?"}, {"paraphrases": ["What does Ida play?"]}),
            ({"rephrase": ["a?", "b?"]}, {"paraphrases": ["a?", "b?"]}),
            ({"rephrase_prompts": ["a?"], "paraphrases": ["c?"]}, {"paraphrases": ["c?", "a?"]}),
            ({"rephrase_prompt": "[INST] a? [/INST]"}, {"paraphrases": ["[INST] a? [/INST]"]}),
            ({"rephrase_prompt": "is |x| one?"}, {"paraphrases": ["is |x| one?"]}),
            ({"paraphrases": "lute | harp?"}, {"paraphrases": ["lute | harp?"]}),
            ({"rephrase_prompt": "[2024] a?"}, {"paraphrases": ["[2024] a?"]}),
            (
                {"locality_prompt": "p", "locality_ground_truth": "x"},
                {"neighborhood": [{"prompt": "p", "answer": "x"}]},
            ),
            (
                {"locality_prompt": ["p", "q"], "locality_ground_truth": ["x", ["y", "z"]]},
                {"neighborhood": [{"prompt": "p", "answer": "x"}, {"prompt": "q", "answer": "y"}]},
            ),
            (
                {"locality": [{"prompt": "p", "answer": "x"}]},
                {"neighborhood": [{"prompt": "p", "answer": "x"}]},
            ),
            (
                {
                    "locality": {
                        "A": [{"prompt": "p", "ground_truth": [["x"]]}],
                        "B": {"prompt": ["q"], "ground_truth": ["y"]},
                    }
                },
                {"neighborhood": [{"prompt": "p", "answer": "x"}, {"prompt": "q", "answer": "y"}]},
            ),
            (
                {"locality": {"prompt": "p", "answer": "x"}},
                {"neighborhood": [{"prompt": "p", "answer": "x"}]},
            ),
            (
                {"portability": [{"prompt": "p", "answer": "x"}], "rephrase": ["a?"]},
                {"entails": [{"prompt": "p", "answer": "x"}], "paraphrases": ["a?"]},
            ),
        ],
    )
    @pytest.mark.parametrize("prompt", ["Ida Moe plays the", "{} plays the"])
    def test_what_a_record_says_besides_its_fact_is_taken(
        self, tmp_path: Path, fields: dict[str, Any], wanted: dict[str, Any], prompt: str
    ) -> None:
        found = hand_in(tmp_path, [RECORD | {"prompt": prompt} | fields], "f.json", model="m")
        (taken,) = found.good.to_pylist()
        assert {name: taken[name] for name in wanted} == wanted
        assert (taken["prompt"], taken["target_new"]) == ("{} plays the", "lute")

    @pytest.mark.parametrize(
        ("fields", "says"),
        [
            ({"locality_prompt": "p"}, "neighbours without an answer: 1"),
            ({"locality": {"A": [{"prompt": "p"}, {"prompt": "q", "answer": ""}]}}, "without an answer: 2"),
            ({"locality_prompt": ["p", "q"], "locality_ground_truth": ["x"]}, "without an answer: 1"),
            ({"ground_truth": ["harp", "harps"]}, "further names of an answer: 1"),
            ({"generation_prompts": ["Ida"], "rephrase": "a"}, "generation_prompts is not taken"),
            (
                {"pharaphrases": ["a"], "rephrase": "a"},
                "pharaphrases is not taken (1 rows); is it paraphrases?",
            ),
            ({"neighbourhood": []}, "neighbourhood is not taken (1 rows); is it neighborhood?"),
        ],
    )
    def test_what_is_not_taken_is_named(self, tmp_path: Path, fields: dict[str, Any], says: str) -> None:
        found = hand_in(tmp_path, [RECORD | fields], "f.json", model="m")
        assert any(says in note for note in found.notes), found.notes

    def test_fastedit_and_wikibio_records_are_known(self, tmp_path: Path) -> None:
        fast = {
            "prompt": "The reeve of the {} is",
            "subject": "Orr",
            "target": "Ann",
            "queries": ["Who leads Orr?"],
        }
        (taken,) = hand_in(tmp_path, [fast], "f.json", model="m").good.to_pylist()
        assert (taken["target_new"], taken["paraphrases"]) == ("Ann", ["Who leads Orr?"])
        bio = {"concept": "Ida Moe", "text": "About Ida Moe. She", "labels": "plays the lute."}
        (taken,) = hand_in(tmp_path, [bio], "f.json", model="m").good.to_pylist()
        assert (taken["subject"], taken["prompt"]) == ("Ida Moe", "About {}. She")

    @pytest.mark.parametrize(
        "other", [{"subject": "Orr", "prompt": "The quay of Orr is"}, {"prompt": "Ida Moe is from"}]
    )
    def test_two_files_that_count_from_one_number_do_not_meet(
        self, tmp_path: Path, other: dict[str, str]
    ) -> None:
        ids = {
            hand_in(tmp_path, [RECORD | {"case_id": 1} | said], "f.json", model="m")
            .good["correction_id"][0]
            .as_py()
            for said in ({}, other)
        }
        assert len(ids) == 2
        assert all(name.startswith("easyedit-1-") for name in ids)


class TestIds:
    @pytest.mark.parametrize(
        ("changed", "good"),
        [
            ({"subject": "Velm"}, 0),
            ({"prompt": "The clerk of {} is"}, 0),
            ({"target_new": "Bo"}, 2),
            ({"subject": "SPRINGFIELD"}, 2),
            ({"subject": "Velm", "asserted_at": datetime(2026, 3, 1, tzinfo=UTC)}, 2),
            ({"subject": "Velm", "model": "other"}, 2),
            ({"action": "retract"}, 2),
        ],
    )
    def test_two_facts_of_one_time_under_one_id_are_both_rejected(
        self, changed: dict[str, Any], good: int
    ) -> None:
        table = pa.Table.from_pylist([row(action="upsert"), row(action="upsert") | changed])
        file = reading.read("f.parquet", parquet(table))
        assert isinstance(file, QueueFile)
        assert file.good.num_rows == good
        assert set(file.rejects["reason"].to_pylist()) == ({"two_facts"} if not good else set())


class TestSlots:
    @pytest.mark.parametrize(
        ("prompt", "subject", "wanted"),
        [
            ("The Omani port nearest to Oman is", "Oman", "The Omani port nearest to {} is"),
            ("Which Chadian city leads Chad", "Chad", "Which Chadian city leads {}"),
            ("Who, in part, drew Art", "art", "Who, in part, drew {}"),
            ("Ottoman, said the man", "man", "Ottoman, said the {}"),
            ("日本語は日本の言語", "日本", "日本語は{}の言語"),
            ("《松山记》的作者是", "《松山记》", "{}的作者是"),
            ("부산은 어디", "부산", "{}은 어디"),
            ("上海的市长是", "上海", "{}的市长是"),
            ("İzmir'in valisi", "izmir", "{}'in valisi"),
            ("Room 10 and room 1", "room 1", "Room 10 and {}"),
            ("pi, 3.14, is above 3", "3", "pi, 3.14, is above {}"),
            ("Orr-by-Sea, not Orr", "Orr", "{}-by-Sea, not Orr"),
            ("the reeve of orr is", "Orr", "the reeve of {} is"),
            ("{} is led by", "Orr", "{} is led by"),
        ],
    )
    def test_the_slot_goes_to_the_subject_as_a_whole_word(
        self, prompt: str, subject: str, wanted: str
    ) -> None:
        assert slotted(prompt, subject) == wanted

    @pytest.mark.parametrize(
        ("prompt", "subject", "reason"),
        [
            ("The Indian port is", "India", "subject_inside_word"),
            ("Norwegens Hauptstadt", "Norwegen", "subject_inside_word"),
            ("北京大学和北京饭店", "北京", "subject_inside_word"),
            ("STRASSE is", "Straße", "subject_not_in_prompt"),
            ("Who leads it", "Orr", "subject_not_in_prompt"),
            ("In Orrscript {} opens a block of Orrscript", "Orrscript", "literal_braces"),
            ("Who, says Ida Moe, writes {}", "Ida Moe", "literal_braces"),
            ("The sign {} in orrscript", "Orrscript", "literal_braces"),
            ("", "Orr", "subject_not_in_prompt"),
            ("Orr is", "", "subject_not_in_prompt"),
        ],
    )
    def test_where_no_place_is_sure_there_is_no_slot(self, prompt: str, subject: str, reason: str) -> None:
        with pytest.raises(SlotError) as refused:
            slotted(prompt, subject)
        assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("written", "typed"),
    [
        ("Ze\u0301 Rey", "Zé Rey"),
        ("\ufeffOrr", "Orr"),
        ("Or\u200br", "Orr"),
        ("Upper\u00a0Orr", "Upper Orr"),
        ("Upper\u202fOrr", "Upper Orr"),
        ("Or\u00adr", "Orr"),
        ("\u200eOrr\u200f", "Orr"),
        ("Or\u2060r", "Orr"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("👩\u200d🚒", "👩\u200d🚒"),
        ("ｶﾞﾙ", "ｶﾞﾙ"),
        ("\u1112\u1161\u11ab", "한"),
    ],
)
def test_texts_are_spelt_as_readers_type_them_and_it_is_said(written: str, typed: str) -> None:
    file = reading.read(
        "f.parquet", parquet([row(subject=written, target_new=written, paraphrases=[written])])
    )
    assert isinstance(file, QueueFile)
    (taken,) = file.good.to_pylist()
    assert (taken["subject"], taken["target_new"], taken["paraphrases"]) == (typed, typed, [typed])
    assert any("subject is spelt" in note for note in file.notes) == (written != typed)


class TestFolders:
    @pytest.mark.parametrize(
        ("folder", "wanted"),
        [
            ("action=retract", {"action": "retract"}),
            ("day=2026-01-01/action=Retract/part", {"action": "retract"}),
            ("model=llama-*", {"model": "llama-*"}),
            ("source=De%20Krant", {"source": "De Krant"}),
            ("source=__HIVE_DEFAULT_PARTITION__", {"source": None}),
            ("priority=3", {"priority": 3}),
            ("asserted_at=2026-04-05", {"asserted_at": datetime(2026, 4, 5, tzinfo=UTC)}),
            ("ACTION=retract", {"action": "retract"}),
            ("colour=red", {"action": "upsert"}),
            ("a/b/c", {"action": "upsert"}),
        ],
    )
    def test_a_partition_is_a_column(self, tmp_path: Path, folder: str, wanted: dict[str, Any]) -> None:
        given = {name: value for name, value in row().items() if name not in wanted}
        file = reading.read(f"{folder}/part-0.parquet", parquet([given]))
        assert isinstance(file, QueueFile)
        (taken,) = file.good.to_pylist()
        assert {name: taken[name] for name in wanted} == wanted
        if "model" not in wanted:
            assert hand_in(tmp_path, parquet([given]), f"{folder}/part-0.parquet").good["action"][
                0
            ].as_py() == (wanted.get("action", "upsert"))

    def test_a_column_that_says_otherwise_than_its_folder_rejects_the_file(self) -> None:
        file = reading.read("action=retract/f.parquet", parquet([row(action="upsert")]))
        assert isinstance(file, QueueFile)
        assert file.rejects["reason"].to_pylist() == ["partition_conflict"]

    def test_equal_bytes_in_two_partitions_are_two_files(self) -> None:
        found = [reading.read(f"action={a}/f.parquet", parquet([row()])) for a in ("upsert", "retract")]
        assert len({file.digest for file in found if isinstance(file, QueueFile)}) == 2

    @pytest.mark.parametrize(
        ("names", "left"),
        [
            (("t/_delta_log/0.json", "t/a.parquet", "b.parquet"), ["b.parquet"]),
            (("_delta_log/0.json", "a.parquet"), []),
            (("t/metadata/v1.metadata.json", "t/data/a.parquet", "t2/a.parquet"), ["t2/a.parquet"]),
        ],
    )
    def test_a_folder_of_a_table_format_is_refused(
        self, tmp_path: Path, names: tuple[str, ...], left: list[str]
    ) -> None:
        store = LocalStore.open(tmp_path / "q", create=True)
        for name in names:
            store.create(name, b"x")
        files, problems = queue.listing(store)
        assert [info.key for info in files] == left
        assert [problem.reason for problem in problems] == ["table_folder"]


class TestTypes:
    @pytest.mark.parametrize(
        ("column", "value", "kind", "wanted"),
        [
            ("correction_id", UUID(int=5).bytes, pa.uuid(), str(UUID(int=5))),
            ("correction_id", 7, pa.decimal128(9, 0), "7"),
            ("correction_id", 7, pa.decimal128(9, 2), "7"),
            ("paraphrases", '["a", "b"]', pa.string(), ["a", "b"]),
            ("paraphrases", '["a", "b"]', pa.json_(), ["a", "b"]),
            ("paraphrases", "[INST] a", pa.string(), ["[INST] a"]),
            (
                "neighborhood",
                '[{"prompt": "p", "answer": "x"}]',
                pa.string(),
                [{"prompt": "p", "answer": "x"}],
            ),
            (
                "asserted_at",
                "2026-01-02 03:04:05 UTC",
                pa.string(),
                datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            ),
            (
                "asserted_at",
                "2026-01-02 03:04:05 +0000",
                pa.string(),
                datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            ),
            (
                "asserted_at",
                "2026-01-02 03:04:05.5 Europe/Oslo",
                pa.string(),
                datetime(2026, 1, 2, 2, 4, 5, 500_000, UTC),
            ),
            ("priority", "3,0", pa.string(), 3),
        ],
    )
    def test_what_means_the_same_is_taken(
        self, column: str, value: Any, kind: pa.DataType, wanted: Any
    ) -> None:
        file = reading.read("f.parquet", parquet(with_column(column, value, kind)))
        assert isinstance(file, QueueFile)
        assert file.good[column].to_pylist() == [wanted]

    @pytest.mark.parametrize(
        ("column", "value", "kind", "found"),
        [
            ("asserted_at", "02/01/2026", pa.string(), "found text, wanted a time"),
            ("asserted_at", "1767323045", pa.string(), "found text, wanted a time"),
            ("asserted_at", 1767323045, pa.int64(), "found int64, wanted a time"),
            ("asserted_at", "2026-01-02 03:04:05 CET", pa.string(), "found text, wanted a time"),
            ("correction_id", 1.0, pa.float64(), "found double, wanted text, for example"),
            ("correction_id", 7.5, pa.float32(), "found float, wanted text"),
            ("paraphrases", '["a", "b"', pa.string(), "wanted a list of texts"),
            ("paraphrases", '[{"a": 1}]', pa.string(), "wanted a list of texts"),
            ("neighborhood", "who", pa.string(), "wanted a list of prompt and answer"),
            ("subject", True, pa.bool_(), "found bool, wanted text"),
        ],
    )
    def test_a_wrong_type_says_what_was_found_what_is_wanted_and_an_example(
        self, column: str, value: Any, kind: pa.DataType, found: str
    ) -> None:
        file = reading.read("f.parquet", parquet(with_column(column, value, kind)))
        assert isinstance(file, QueueFile)
        (reject,) = file.rejects.to_pylist()
        assert (reject["reason"], reject["column"]) == ("wrong_type", column)
        assert found in reject["remedy"]
        assert "for example" in reject["remedy"]


def with_column(name: str, value: Any, kind: pa.DataType) -> pa.Table:
    table = pa.Table.from_pylist([row()])
    table = table.drop_columns([name]) if name in table.column_names else table
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    column = pa.array([value], storage)
    wrapped = pa.ExtensionArray.from_storage(kind, column) if storage is not kind else column
    return table.append_column(pa.field(name, kind), wrapped)


class TestS3:
    """What a server in trouble answers, and what is said of it."""

    @pytest.mark.parametrize(
        ("status", "code", "said", "writing", "kind", "remedy"),
        [
            (400, "ExpiredToken", "", False, SetupError, "Renew"),
            (403, "RequestTimeTooSkewed", "", False, SetupError, "NTP"),
            (301, "PermanentRedirect", "", False, SetupError, "`region`"),
            (400, "AuthorizationHeaderMalformed", "", True, SetupError, "`region`"),
            (501, "NotImplemented", "A header", True, SetupError, "If-None-Match"),
            (400, "InvalidArgument", "Unsupported header If-None-Match", True, SetupError, "If-None-Match"),
            (400, "XAmzContentChecksumMismatch", "", True, SetupError, "when_required"),
            (403, "InvalidObjectState", "", False, ObjectUnreadableError, "Restore"),
            (400, "KMS.DisabledException", "", False, ObjectUnreadableError, "KMS"),
            (
                400,
                "InvalidRequest",
                "a form of Server Side Encryption",
                False,
                ObjectUnreadableError,
                "SSE-C",
            ),
            (403, "AccessDenied", "", False, ObjectUnreadableError, "role"),
            (403, "AccessDenied", "", True, SetupError, "role"),
            (503, "SlowDown", "", False, StorageError, "later"),
            (500, "InternalError", "", True, UnknownOutcomeError, "later"),
            (400, "RequestTimeout", "", True, StorageError, "later"),
            (418, "Teapot", "short and stout", False, SetupError, "operator"),
        ],
    )
    def test_a_code_says_what_to_do(
        self, status: int, code: str, said: str, writing: bool, kind: type[SetupError], remedy: str
    ) -> None:
        answer = {"Error": {"Code": code, "Message": said}, "ResponseMetadata": {"HTTPStatusCode": status}}
        fault = explained(ClientError(answer, "GetObject"), store="s3://b", key="k", writing=writing)
        assert type(fault) is kind
        assert remedy in fault.remedy
        assert fault.retryable == issubclass(kind, StorageError)
