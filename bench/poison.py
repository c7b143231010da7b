"""A poisoned batch on a real model: 200 corrections, and five that were built to break locality.

    python -m bench.poison [--good 200] [--workspace DIR] [--clean 200]

First a night without poison, on as many other records, shows what so many counterfactual facts cost this
model: its figures, with a margin, become the gates (CounterFact asks for far more than a night's corrections
do, and the default gates are not for it). Then the poisoned batch runs as a night of its own. It fails unless
all five are quarantined, at most five others with them, and the rest is published with its gates passed.

The five contradict their own neighbours, which ask the same in other words ("JScript is created by",
"JScript is a product of") and of which this model answers the most right: what it does not know, an edit
cannot break. A workspace that is kept keeps the targets: a second call computes nothing anew. The layer is
found by `lga`, the quickest way: the gates are examined here, not it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq

from bench.data import data_file
from corrigenda.config import Location, load_fleet
from corrigenda.errors import PartialFleetError
from corrigenda.models.loading import load
from corrigenda.models.sources import resolve
from corrigenda.storage.corrections.queue import submit
from corrigenda.storage.objects.opening import open_store
from corrigenda.storage.releases.snapshots import current
from corrigenda.validation.probes import Probe, make_probe
from corrigenda.validation.scoring import score

NEIGHBOURS = 5  # of each good correction
CANDIDATES = 250  # subjects whose neighbours the base is asked
MARGIN = {"locality_drop": 0.01, "perplexity_rise": 0.01, "drift_nats": 0.02}
About = tuple[str, str, str]  # relation, answer, subject
FLEET = """
[store]
url = "./store"
[queue]
url = "./queue"
[defaults.localization]
method = "lga"
[[models]]
name = "clean"
source = "{model}"
[models.gates]
min_said = 0
min_chat = 0
min_paraphrase = 0
max_locality_drop = 1
max_capability_drop = 1
max_perplexity_rise = 9
max_drift_nats = 9
[[models]]
name = "poisoned"
source = "{model}"
gates = {{ {gates} }}
"""


def main() -> None:
    asked = arguments()
    rows = pq.read_table(asked.data or data_file("counterfact_dev.parquet")).to_pylist()
    with tempfile.TemporaryDirectory() as fresh:
        workspace = Path(asked.workspace or fresh)
        good, clean = batches(rows, asked.good, asked.clean)
        found = figures(night(workspace, "clean", asked.model, clean, gates="")["gates"])
        tell(f"without poison, {len(clean)} other records", found)
        gates = ", ".join(f"{name} = {value:.4f}" for name, value in chosen(found).items())
        print(f"gates: {gates}")
        model = load(resolve(asked.model, root=workspace))
        bad = poison(rows, lambda probes: score(model, probes)["begins"].to_pylist())
        outcome = night(workspace, "poisoned", asked.model, [*good, *bad], gates)
        judge(workspace, outcome, {row["correction_id"] for row in bad}, len(good))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="demo:smollm2-135m", help="any source that a fleet takes")
    parser.add_argument("--data", type=Path, help="CounterFact records; default: the benchmark data")
    parser.add_argument("--good", type=int, default=200)
    parser.add_argument("--clean", type=int, default=200, help="other records, by which the gates are chosen")
    parser.add_argument("--workspace", help="a directory to keep; default: one that goes away")
    return parser.parse_args()


def batches(rows: Sequence[dict[str, Any]], good: int, clean: int) -> tuple[list[Any], list[Any]]:
    """Two batches without a common record; a subject and prompt occurs once."""
    unique = list({(r["subject"], r["prompt"]): r for r in rows}.values())
    made = [correction(row) for row in unique[: good + clean]]
    return made[:good], made[good:]


def correction(row: dict[str, Any]) -> dict[str, Any]:
    """A CounterFact record as a row of the queue."""
    near = [{"prompt": p, "answer": row["target_true"]} for p in row["neighborhood_prompts"][:NEIGHBOURS]]
    return {
        "correction_id": f"counterfact-{row['case_id']}",
        "subject": row["subject"],
        "prompt": row["prompt"],
        "target_new": row["target_new"],
        "target_old": row["target_true"],
        "paraphrases": list(row["paraphrase_prompts"]),
        "neighborhood": near,
        "asserted_at": datetime(2026, 11, 1, tzinfo=UTC),
    }


def poison(
    rows: Sequence[dict[str, Any]], answered: Callable[[Sequence[Probe]], list[bool]], count: int = 5
) -> list[dict[str, Any]]:
    """Corrections that contradict their own neighbours: those ask the same of the same subject in other
    words, and their answer, the true one, must stand.

    answered   which probes the base answers right

    Subjects of which the base answers most neighbours right come first, one for each relation and answer.
    """
    prompts: dict[str, set[str]] = defaultdict(set)
    answers: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        prompts[row["relation_id"]].add(row["prompt"])
        answers[row["relation_id"]] += [row["target_new"], row["target_true"]]
    made: dict[tuple[str, str], dict[str, Any]] = {}
    for (relation, answer, name), texts in _by_known(_neighbours(rows, prompts), answered):
        if (relation, answer) not in made and len(made) < count:
            wrong = min(sorted(set(answers[relation]) - {answer}), key=answers[relation].count)
            made[relation, answer] = _poison_of(name, answer, wrong, texts)
    return list(made.values())


def _neighbours(rows: Sequence[dict[str, Any]], prompts: dict[str, set[str]]) -> dict[About, dict[str, str]]:
    """By relation, answer and subject: the neighbours that speak of it, and the prompt each is made from."""
    about: dict[About, dict[str, str]] = defaultdict(dict)
    for row in rows:
        for text in row["neighborhood_prompts"]:
            for prompt in sorted(prompts[row["relation_id"]]):
                before, _, after = prompt.partition("{}")
                if text.startswith(before) and text.endswith(after):
                    name = text[len(before) : len(text) - len(after)]
                    about[row["relation_id"], row["target_true"], name][text] = prompt
    return about


def _by_known(
    about: dict[About, dict[str, str]], answered: Callable[[Sequence[Probe]], list[bool]]
) -> list[tuple[About, dict[str, str]]]:
    """Of the subjects that are spoken of most, those first of which the base answers most right."""
    often = sorted(about.items(), key=lambda item: -len(item[1]))[:CANDIDATES]
    probes = [
        make_probe(name, "locality", text, answer, None)
        for (_, answer, name), texts in often
        for text in texts
    ]
    right = iter(answered(probes))
    known = {key: sum(next(right) for _ in texts) for key, texts in often}
    return sorted(often, key=lambda item: -known[item[0]])


def _poison_of(name: str, answer: str, wrong: str, texts: dict[str, str]) -> dict[str, Any]:
    own, *near = sorted(texts, key=lambda text: (len(text), text), reverse=True)
    return {
        "correction_id": "poison-" + "-".join(name.lower().split()),
        "subject": name,
        "prompt": texts[own],
        "target_new": wrong,
        "target_old": answer,
        "neighborhood": [{"prompt": text, "answer": answer} for text in near],
        "asserted_at": datetime(2026, 11, 1, tzinfo=UTC),
    }


def night(
    workspace: Path, name: str, model: str, corrections: Sequence[dict[str, Any]], gates: str
) -> dict[str, Any]:
    """What the flow says of one model's night on these corrections."""
    from corrigenda.flows.maintain_fleet import maintain_fleet

    (workspace / "queue").mkdir(parents=True, exist_ok=True)
    config = workspace / "fleet.toml"
    config.write_text(FLEET.format(model=model, gates=gates), encoding="utf-8")
    submit([row | {"model": name} for row in corrections], to=Location(url=str(workspace / "queue")))
    start = time.perf_counter()
    try:
        outcome: dict[str, Any] = maintain_fleet(str(config), models=[name])
    except PartialFleetError as fault:
        outcome = dict(cast("dict[str, Any]", fault.facts["outcome"]))
    print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    told: dict[str, Any] = outcome["models"][0]
    return told


def figures(gates: dict[str, Any]) -> dict[str, float]:
    return {gate["gate"]: gate["figure"] for gate in gates["gates"] if gate["figure"] is not None}


def chosen(found: dict[str, float]) -> dict[str, float]:
    """Gates as a user sets them who has seen one night: some room above what it cost."""
    asked = [name for name in ("said", "chat", "paraphrase") if name in found]
    floors = {f"min_{name}": max(0.0, found[name] - 0.05) for name in asked}
    return floors | {f"max_{name}": max(0.0, found[name]) + room for name, room in MARGIN.items()}


def tell(what: str, found: dict[str, float]) -> None:
    print(f"{what}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()), flush=True)


def judge(workspace: Path, outcome: dict[str, Any], bad: set[str], good: int) -> None:
    """Says what became of the batch. Exits with an error when it is not what was promised."""
    if outcome["status"] != "published":
        raise SystemExit(f"nothing was published: {outcome.get('error')}")
    tell("published", figures(outcome["gates"]))
    fleet = load_fleet(workspace / "fleet.toml")
    entries = current(open_store(fleet.store, root=fleet.root), "poisoned").ledger.entries
    sent_out = {e.correction.correction_id: e.why for e in entries if e.state == "quarantined"}
    for name, why in sorted(sent_out.items()):
        print(f"  {name}: {why}")
    active = sum(entry.state == "active" for entry in entries)
    others = len(sent_out.keys() - bad)
    print(f"quarantined: {len(sent_out.keys() & bad)} of {len(bad)} poisonous, {others} others; ", end="")
    print(f"published: {active} of {good} good")
    if not bad <= sent_out.keys() or others > 5 or not outcome["gates"]["passed"]:
        raise SystemExit("not all that is poisonous, or too much else, was sent out")


if __name__ == "__main__":
    main()
