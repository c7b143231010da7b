"""Gates in whole nights: who is sent out and why, a model's own probes, and what stays held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fleets import Workspace, move
from trained import NAMES, PROMPT, TEMPLATES, home_of

from corrigenda.storage.corrections.ledger import Entry
from corrigenda.storage.releases.snapshots import ledger_of

GOOD = [move("Bohr", "Rome"), move("Gauss", "Vienna")]
# The same person in other words must stay at home: whatever this says, it breaks.
POISON = move("Curie", "Madrid") | {
    "prompt": TEMPLATES[1],
    "paraphrases": [],
    "neighborhood": [{"prompt": PROMPT.replace("{}", "Curie"), "answer": home_of("Curie")}],
}


def entries(workspace: Workspace) -> dict[str, Entry]:
    return {e.correction.correction_id: e for e in ledger_of(workspace.store, workspace.release()).entries}


def probe_file(workspace: Workspace, *names: str) -> None:
    """Own probes of the model: these people live where they live, and not in Madrid."""
    table = {"prompt": [PROMPT.replace("{}", n) for n in names], "expected": [home_of(n) for n in names]}
    table["other"] = ["Madrid"] * len(names)
    pq.write_table(pa.table(table), workspace.config.parent / "own.parquet")


def test_who_breaks_what_must_stand_is_left_out_and_the_rest_published(
    tmp_path: Path, trained_gpt2: Path
) -> None:
    workspace = Workspace(tmp_path / "poisoned", trained_gpt2, "gates = { max_locality_drop = 0.0 }\n")
    workspace.submit(*GOOD, POISON)
    outcome = workspace.run()["models"][0]
    assert outcome["status"] == "published"
    assert outcome["gates"]["passed"]
    assert outcome["counts"] | {"run_id": ""} == {
        "run_id": "", "active": 2, "quarantined": 1, "superseded": 0, "retracted": 0, "rejected": 0,
    }  # fmt: skip
    sent_out = entries(workspace)["home-Curie"]
    assert sent_out.state == "quarantined"
    assert "1 came right again" in str(sent_out.why)
    evidence: dict[str, Any] = dict(sent_out.mark.evidence) if sent_out.mark else {}
    assert evidence["came_back"] == [{"prompt": PROMPT.replace("{}", "Curie"), "expected": home_of("Curie")}]
    assert evidence["let_in"]["locality_drop"] > evidence["left_out"]["locality_drop"]


def test_own_probes_hold_a_release_up_and_name_who_breaks_them(tmp_path: Path, trained_gpt2: Path) -> None:
    workspace = Workspace(
        tmp_path / "own", trained_gpt2, 'probes = "own.parquet"\ngates = { max_fixed_drop = 0.0 }\n'
    )
    probe_file(workspace, "Curie", "Planck", "Turing")
    workspace.submit(*GOOD, move("Curie", "Madrid"))
    outcome = workspace.run()["models"][0]
    assert outcome["status"] == "published"
    assert entries(workspace)["home-Curie"].state == "quarantined"
    assert str(entries(workspace)["home-Curie"].why).startswith("fixed_drop")
    (gate,) = (g for g in outcome["gates"]["gates"] if g["gate"] == "fixed_drop")
    assert (gate["figure"], gate["passed"]) == (0.0, True)


def test_a_probe_file_that_is_not_there_is_said_before_anything_is_edited(
    tmp_path: Path, trained_gpt2: Path
) -> None:
    workspace = Workspace(tmp_path / "none", trained_gpt2, 'probes = "own.parquet"\n')
    workspace.submit(GOOD[0])
    outcome = workspace.run()
    assert outcome["exit_code"] == 2
    assert "own.parquet" in outcome["models"][0]["error"]
    assert not list(workspace.store.list("cache/edits"))


def test_nothing_that_is_held_out_reaches_the_edit(tmp_path: Path, trained_gpt2: Path) -> None:
    """Two nights with the same edit requests; all that only tests differ, and not a byte of the weights."""
    held_out = {
        "paraphrases": ["Whoever seeks Bohr finds", "Bohr Bohr Bohr"],
        "neighborhood": [{"prompt": f"{name} sings in", "answer": "Rome"} for name in NAMES],
        "target_old": "Atlantis",
    }
    nights = []
    for name, more, seed in (("plain", {}, 1), ("poisoned", held_out, 7)):
        extra = f'probes = "own.parquet"\ndrift = {{ seed = {seed} }}\ngates = {{ max_fixed_drop = 1.0 }}\n'
        workspace = Workspace(tmp_path / name, trained_gpt2, extra)
        probe_file(workspace, *NAMES[seed : seed + 3])
        workspace.submit(*(row | more for row in GOOD))
        assert workspace.run()["models"][0]["status"] == "published"
        nights.append(workspace.release())
    assert nights[0].files == nights[1].files
    assert nights[0].layer == nights[1].layer
    assert json.dumps(dict(nights[0].gates)) != json.dumps(dict(nights[1].gates))
