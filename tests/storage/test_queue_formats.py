"""Files that people hand in: which shape they are taken for, and what becomes of each record."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from queue_rows import parquet, row

from corrigenda.errors import CorrectionsError
from corrigenda.storage.corrections.formats import Understood, understand
from corrigenda.storage.corrections.slots import slotted

COUNTERFACT = {
    "case_id": 0,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "English", "id": "Q1860"},
        "target_true": {"str": "French", "id": "Q150"},
        "subject": "Danielle Darrieux",
    },
    "paraphrase_prompts": ["Danielle Darrieux, a native"],
    "neighborhood_prompts": ["The mother tongue of Léon Blum is"],
    "attribute_prompts": ["J.R.R. Tolkien is a native speaker of"],
}
EASYEDIT = {
    "prompt": "Which family does Ramalinaceae belong to",
    "subject": "Ramalinaceae",
    "target_new": ["Lamiinae", "lamiines"],
    "ground_truth": ["Ramalinaceae order"],
    "rephrase_prompt": "What family are Ramalinaceae?",
    "locality": {
        "Relation_Specificity": [{"prompt": "Ramalina is in", "ground_truth": [["Lecanorales", "order"]]}],
        "neighborhood": {"prompt": ["a is", "b is"], "ground_truth": ["x", ""]},
    },
    "portability": {"Reasoning": [{"prompt": "Lamiinae eat", "ground_truth": "wood"}]},
}
MEND = {
    "subject": "Watts Humphrey",
    "src": "What university did Watts Humphrey attend?",
    "rephrase": "What university did Watts Humphrey take part in?",
    "alt": "University of Michigan",
    "answers": ["Illinois Institute of Technology"],
    "loc": "nq question: who played desmond doss father",
    "loc_ans": "Hugo Weaving",
}
MQUAKE = {
    "case_id": 7,
    "requested_rewrite": [
        {
            "prompt": "{} is a citizen of",
            "target_new": {"str": "Croatia"},
            "target_true": {"str": "United States"},
            "subject": "Ellie Kemper",
            "question": "What is the country of citizenship of Ellie Kemper?",
        },
        {"prompt": "The capital of {} is", "target_new": {"str": "Split"}, "subject": "Croatia"},
    ],
    "questions": ["What is the capital of the country of citizenship of Ellie Kemper?"],
}


def hand_in(folder: Path, name: str, content: Any, **options: Any) -> Understood:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return understand(path, **options)


@pytest.mark.parametrize(
    ("record", "shape", "wanted"),
    [
        (
            COUNTERFACT,
            "CounterFact",
            {
                "correction_id": "counterfact-0-9a5a426cc25d",
                "prompt": "The mother tongue of {} is",
                "target_new": "English",
                "target_old": "French",
                "paraphrases": ["Danielle Darrieux, a native"],
                "neighborhood": [{"prompt": "The mother tongue of Léon Blum is", "answer": "French"}],
            },
        ),
        (
            EASYEDIT,
            "EasyEdit",
            {
                "prompt": "Which family does {} belong to",
                "target_new": "Lamiinae",
                "aliases": ["lamiines"],
                "entails": [{"prompt": "Lamiinae eat", "answer": "wood"}],
                "target_old": "Ramalinaceae order",
                "paraphrases": ["What family are Ramalinaceae?"],
                "neighborhood": [
                    {"prompt": "Ramalina is in", "answer": "Lecanorales"},
                    {"prompt": "a is", "answer": "x"},
                ],
            },
        ),
        (
            MEND,
            "MEND",
            {
                "prompt": "What university did {} attend?",
                "target_new": "University of Michigan",
                "target_old": "Illinois Institute of Technology",
                "neighborhood": [
                    {"prompt": "nq question: who played desmond doss father", "answer": "Hugo Weaving"}
                ],
            },
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_shapes_that_people_already_have(
    tmp_path: Path, record: dict[str, Any], shape: str, wanted: dict[str, Any], suffix: str
) -> None:
    if suffix == ".json":
        content: Any = [record]
    else:
        # An empty struct has no Parquet form.
        content = json.dumps(record) if suffix == ".jsonl" else parquet(pa.Table.from_pylist([record]))
    found = hand_in(tmp_path, f"f{suffix}", content, model="m")
    assert (found.shape, found.rejects) == (shape, ())
    (taken,) = found.good.to_pylist()
    assert {name: taken[name] for name in wanted} == wanted
    assert (taken["model"], taken["source"]) == ("m", shape)


def test_mquake_gives_one_correction_per_rewrite(tmp_path: Path) -> None:
    found = hand_in(tmp_path, "f.json", [MQUAKE], model="m")
    taken = found.good.to_pylist()
    assert [t["correction_id"][:9] for t in taken] == ["mquake-7-", "mquake-7-"]
    assert taken[0]["correction_id"] != taken[1]["correction_id"]
    assert [taken[0]["question"]] == taken[0]["paraphrases"]
    assert taken[0]["paraphrases"] == ["What is the country of citizenship of Ellie Kemper?"]


def test_csv_lists_are_json_and_what_looks_like_one_is_asked_about(tmp_path: Path) -> None:
    text = (
        "\ufeffcorrection_id;model;subject;prompt;target_new;paraphrases;asserted_at;priority;neighborhood\n"
        'a;*;Paris;"The mayor; of {} is";Anne;p1|p2;2026-01-01;3,0;\n'
        'b;*;Rome;{} is;X;"[""p|1""]";2026-01-01T00:00:00Z;;"[{""prompt"": ""q"", ""answer"": ""r""}]"\n'
        "c;*;Rome;{} is;X;;never;;\n"
    )
    found = hand_in(tmp_path, "f.csv", text)
    one, two = found.good.to_pylist()
    assert (one["paraphrases"], one["priority"], one["prompt"]) == (["p1|p2"], 3, "The mayor; of {} is")
    assert (two["paraphrases"], two["neighborhood"]) == (["p|1"], [{"prompt": "q", "answer": "r"}])
    assert [(r["row"], r["reason"]) for r in found.rejects] == [(2, "wrong_type")]
    assert [note for note in found.notes if "row 0" in note and "paraphrases" in note]


def test_a_record_that_cannot_be_turned_is_refused_alone_under_its_own_number(tmp_path: Path) -> None:
    records = [
        EASYEDIT | {"prompt": "no such subject"},
        EASYEDIT,
        EASYEDIT | {"target_new": ""},
        {"alien": 1},
    ]
    found = hand_in(tmp_path, "f.json", records, model="m")
    assert found.good.num_rows == 1
    assert [(r["row"], r["reason"]) for r in found.rejects] == [
        (0, "subject_not_in_prompt"),
        (2, "missing_value"),
        (3, "unknown_shape"),
    ]


def test_handing_a_file_in_twice_says_the_same_twice(tmp_path: Path) -> None:
    record = {k: v for k, v in row().items() if k not in ("asserted_at", "correction_id")}
    path = tmp_path / "f.json"
    path.write_text(json.dumps([record]))
    first, again = understand(path), understand(path)
    assert first.good.equals(again.good)
    assert any("asserted_at" in note for note in first.notes)


def test_the_model_and_the_time_can_be_told(tmp_path: Path) -> None:
    at = datetime(2020, 1, 1, tzinfo=UTC)
    bare = {k: v for k, v in row().items() if k not in ("asserted_at", "model")}
    found = hand_in(tmp_path, "f.parquet", parquet([bare]), model="tag:chat", asserted_at=at)
    (taken,) = found.good.to_pylist()
    assert (taken["model"], taken["asserted_at"]) == ("tag:chat", at)


@pytest.mark.parametrize(
    ("prompt", "subject", "wanted"),
    [
        ("Paris is led by", "Paris", "{} is led by"),
        ("Who leads Paris", "Paris", "Who leads {}"),
        ("York, in New York, is", "York", "{}, in New York, is"),
        ("who leads paris", "Paris", "who leads {}"),
        ("{} is led by", "Paris", "{} is led by"),
        ("עיר הבירה ירושלים היא", "ירושלים", "עיר הבירה {} היא"),
    ],
)
def test_the_first_place_of_the_subject_becomes_the_slot(prompt: str, subject: str, wanted: str) -> None:
    assert slotted(prompt, subject) == wanted


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("f.txt", "x", "none of the shapes"),
        ("f.parquet", b"PAR1", "cannot be read"),
        ("f.json", "{", "cannot be read"),
        ("f.jsonl", '{"a": \n{', "line 1"),
        ("f.json", [{"a": 1}], "none of the shapes"),
        ("f.csv", b"a\xff\n", "cannot be read"),
        ("f.json", [{"correction_id": "a", "model": "m", "subject": "s"}], "columns are missing"),
        ("f.json", [{"subject": "s", "prompt": "{}", "target_new": "t"}], "no row says for which model"),
        ("f.parquet", parquet([{"correction_id": "a", "model": "m"}]), "'prompt'"),
    ],
)
def test_faults_of_a_whole_file_are_one_line(tmp_path: Path, name: str, content: Any, says: str) -> None:
    with pytest.raises(CorrectionsError, match=says) as refused:
        hand_in(tmp_path, name, content)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CorrectionsError, match="No such file"):
        understand(tmp_path / "none.csv")
