"""Facts that benchmarks edit, and CounterFact's probes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from bench.data import data_file
from corrigenda.facts import EditRequest
from corrigenda.storage.corrections.formats import understand
from corrigenda.storage.corrections.schemas import correction_of
from corrigenda.validation.probes import Probe, make_probe

# The odd rows are for reporting: nothing is tuned on them.
HALVES = {"tune": slice(0, None, 2), "report": slice(1, None, 2), "all": slice(None)}


def counterfact(count: int, half: str) -> list[dict[str, Any]]:
    """Complete records of one half first, then facts with one rephrase and one neighbour."""
    complete: list[dict[str, Any]] = pq.read_table(data_file("counterfact_dev.parquet")).to_pylist()
    found = complete[HALVES[half]][:count]
    if len(found) < count:
        taken = {row["subject"] for row in complete}
        taken |= {prompt for row in complete for prompt in row["neighborhood_prompts"]}
        for row in pq.read_table(data_file("counterfact_facts_dev.parquet")).to_pylist()[HALVES[half]]:
            if row["subject"] not in taken and row["prompt"].replace("{}", row["subject"]) not in taken:
                found.append(
                    row
                    | {
                        "paraphrase_prompts": [row["rephrase_prompt"]],
                        "neighborhood_prompts": [row["locality_prompt"]],
                    }
                )
    return found[:count]


def request_of(record: dict[str, Any]) -> EditRequest:
    return EditRequest(record["subject"], record["prompt"], record["target_new"])


def of_file(path: Path, count: int, half: str) -> list[dict[str, Any]]:
    """Corrections of a file in the same form; those without an old answer cannot be compared with it."""
    found = [
        {
            "case_id": one.correction_id,
            "subject": one.subject,
            "prompt": one.prompt,
            "target_new": one.target_new,
            "target_true": one.target_old,
            "paraphrase_prompts": list(one.paraphrases),
            "neighborhood_prompts": [near.prompt for near in one.neighborhood],
            "neighborhood_answers": [near.answer for near in one.neighborhood],
        }
        for one in map(correction_of, understand(path, model="any").good.to_pylist())
        if one.action == "upsert" and one.target_old
    ]
    mine = found[HALVES[half]]
    print(f"{path.name}: {len(mine)} facts with an old answer ({half}), {min(count, len(mine))} taken")
    return mine[:count]


def probes_of(
    records: Sequence[dict[str, Any]], among: Sequence[dict[str, Any]], neighbours: int
) -> list[Probe]:
    """CounterFact's probes of some records; a neighbour that is an edit prompt `among` all is dropped."""
    edited = {r["prompt"].replace("{}", r["subject"]) for r in among}
    found = []
    for r in records:
        name, new, old = str(r["case_id"]), r["target_new"], r["target_true"]
        found.append(make_probe(name, "rewrite", r["prompt"].replace("{}", r["subject"]), new, old))
        found += [make_probe(name, "paraphrase", p, new, old) for p in r["paraphrase_prompts"]]
        answers = r.get("neighborhood_answers") or [old] * len(r["neighborhood_prompts"])
        near = list(zip(r["neighborhood_prompts"], answers, strict=True))[:neighbours]
        found += [make_probe(name, "locality", p, a, new) for p, a in near if p not in edited and a != new]
    return found
