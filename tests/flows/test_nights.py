"""Whole nights on a model of the GPT-2 family that knows its facts: what is published, and what is not."""

from __future__ import annotations

from pathlib import Path

from fleets import NOON, Workspace, move
from trained import PROMPT

from corrigenda.models.plain import continuations
from corrigenda.storage.delivery.pull import pull, resolve
from corrigenda.storage.releases import lease, refs
from corrigenda.storage.releases.snapshots import ledger_of

ADA, ALAN = move("Bohr", "Rome"), move("Gauss", "Vienna")


def says(workspace: Workspace, ref: str, name: str) -> str:
    """What the pulled release says about somebody's home, by plain transformers."""
    dest = workspace.config.parent / f"pulled-{ref}"
    pull(workspace.store, "homes", ref, dest)
    return continuations(dest, [PROMPT.replace("{}", name)], 3)[0].strip()


def test_a_night_mends_the_facts_and_leaves_the_others(workspace: Workspace) -> None:
    workspace.submit(ADA, ALAN)
    outcome = workspace.run()
    assert outcome["exit_code"] == 0
    assert outcome["models"][0]["status"] == "published"
    assert says(workspace, "latest", "Bohr").startswith("Rome")
    assert says(workspace, "latest", "Gauss").startswith("Vienna")
    assert says(workspace, "latest", "Planck").startswith("Vienna")
    assert says(workspace, "0", "Bohr").startswith("London")
    changed = {
        path for path, ref in workspace.release().files.items() if workspace.release("0").files[path] != ref
    }
    assert len(changed) == 1


def test_a_second_night_without_news_does_nothing(workspace: Workspace) -> None:
    workspace.submit(ADA)
    workspace.run()
    before = refs.read(workspace.store, "homes", "latest")
    outcome = workspace.run()
    assert outcome["models"][0]["status"] == "unchanged"
    assert outcome["queue"]["known_files"] == 1
    assert refs.read(workspace.store, "homes", "latest") == before


def test_a_new_night_computes_only_what_is_new(workspace: Workspace) -> None:
    workspace.submit(ADA)
    workspace.run()
    workspace.submit(ALAN)
    assert workspace.run()["models"][0]["edits"] == {"computed": 1, "cached": 1, "short": 0}
    assert says(workspace, "latest", "Bohr").startswith("Rome")


def test_retracting_everything_gives_the_base_back_to_the_bit(workspace: Workspace) -> None:
    workspace.submit(ADA)
    workspace.run()
    assert workspace.release().files != workspace.release("0").files
    workspace.submit(
        {
            "correction_id": ADA["correction_id"],
            "action": "retract",
            "model": "homes",
            "asserted_at": NOON.replace(hour=13),
        }
    )
    assert workspace.run()["models"][0]["status"] == "published"
    assert workspace.release().files == workspace.release("0").files
    assert workspace.release().number == 2


def test_the_order_of_arrival_does_not_change_a_byte(tmp_path: Path, trained_gpt2: Path) -> None:
    """Two models of one base share its cached targets; their corrections come in another order."""
    twin = f'[[models]]\nname = "twin"\nsource = "{trained_gpt2}"\n'
    workspace = Workspace(tmp_path / "twins", trained_gpt2, twin)
    later = move("Bohr", "Madrid", hour=1)
    for night in ([ADA, ALAN], [later]):
        workspace.submit(*night)
        workspace.run(models=["homes"])
    for night in ([later], [ALAN], [ADA]):
        workspace.submit(*(row | {"model": "twin"} for row in night))
        assert workspace.run(models=["twin"])["models"][0].get("edits", {}).get("computed", 0) == 0
    one, other = workspace.release(), resolve(workspace.store, "twin", "latest")
    assert one.files == other.files
    assert ledger_of(workspace.store, one).counts == ledger_of(workspace.store, other).counts


def test_a_dry_run_changes_nothing(workspace: Workspace) -> None:
    workspace.submit(ADA)
    outcome = workspace.run(dry_run=True)
    assert outcome["models"][0]["taken_in"]["new"] == 1
    assert refs.read(workspace.store, "homes", "latest").ref is None
    assert not list(workspace.store.list("rejects/"))


def test_one_bad_model_never_stops_the_fleet(tmp_path: Path, trained_gpt2: Path) -> None:
    more = '[[models]]\nname = "absent"\nsource = "./nowhere"\n'
    workspace = Workspace(tmp_path / "two", trained_gpt2, more)
    workspace.submit(ADA, ALAN | {"model": "*"})
    outcome = workspace.run()
    assert outcome["exit_code"] == 6
    failed = next(row for row in outcome["models"] if row["model"] == "absent")
    assert "source is not there" in failed["error"]
    assert says(workspace, "latest", "Gauss").startswith("Vienna")


def test_a_candidate_that_cannot_pass_is_not_published(tmp_path: Path, trained_gpt2: Path) -> None:
    workspace = Workspace(tmp_path / "strict", trained_gpt2, "gates = { max_drift_nats = 0.0 }\n")
    workspace.submit(ADA)
    outcome = workspace.run()
    assert outcome["exit_code"] == 5
    assert "drift_nats" in outcome["models"][0]["error"]
    assert workspace.release().number == 0
    assert workspace.run()["exit_code"] == 5  # nothing was consumed: the correction is still new


def test_a_model_that_is_being_written_is_left_alone(workspace: Workspace) -> None:
    workspace.submit(ADA)
    with lease.hold(workspace.store, "homes", "somebody else"):
        outcome = workspace.run()
    assert outcome["exit_code"] == 0
    assert outcome["models"][0] | {"seconds": {}} == {
        "model": "homes", "status": "busy", "by": "somebody else", "seconds": {},
    }  # fmt: skip
    assert workspace.run()["models"][0]["status"] == "published"


def test_a_repeat_moves_the_books_and_not_the_weights(workspace: Workspace) -> None:
    workspace.submit(ADA)
    workspace.run()
    files = workspace.release().files
    workspace.submit(ADA | {"source": "told twice"})
    outcome = workspace.run()
    assert outcome["models"][0]["status"] == "published"
    assert "edits" not in outcome["models"][0]
    assert workspace.release().files == files
    assert ledger_of(workspace.store, workspace.release()).counts["active"] == 1
