"""What a night publishes besides the release itself: a signature, and a directory for other readers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fleets import Workspace, move
from trained import PROMPT

sys.path.insert(0, str(Path(__file__).parents[1] / "storage"))

from made_keys import make_key
from store_servers import DiesAtWrite

from corrigenda.config import load_fleet
from corrigenda.models.plain import continuations
from corrigenda.pipeline import night as nights
from corrigenda.storage.delivery.pull import pull
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.keys import Keyring
from corrigenda.storage.releases import layouts, publish, signatures

BOHR, GAUSS = move("Bohr", "Rome"), move("Gauss", "Vienna")


def laid_out(workspace: Workspace, number: int) -> Path:
    return workspace.config.parent / "store" / "hf" / "homes" / str(number)


def test_a_night_lays_its_release_out_before_latest_points_to_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = []
    plain = publish.promote

    def watched(store: ObjectStore, release: publish.Release, **named: object) -> object:
        whole.append((release.number, layouts.is_whole(store, release)))
        return plain(store, release, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(publish, "promote", watched)
    workspace.submit(BOHR)
    assert workspace.run(layouts=["hf"])["exit_code"] == 0
    assert whole == [(1, True)]
    said = continuations(laid_out(workspace, 1), [PROMPT.replace("{}", "Bohr")], 3)[0]
    assert said.strip().startswith("Rome")
    assert not laid_out(workspace, 0).exists()


def test_a_layout_that_is_asked_for_later_is_made_for_the_release_that_stands(
    tmp_path: Path, trained_gpt2: Path
) -> None:
    workspace = Workspace(tmp_path / "fleet", trained_gpt2)
    workspace.submit(BOHR)
    workspace.run()
    assert not layouts.in_use(workspace.store, "homes")
    text = workspace.config.read_text(encoding="utf-8")
    workspace.config.write_text(text + 'layouts = ["hf"]\n', encoding="utf-8")
    assert load_fleet(workspace.config).models[0].layouts == ("hf",)
    assert workspace.run()["models"][0]["status"] == "unchanged"
    assert layouts.is_whole(workspace.store, workspace.release())


def test_a_night_signs_what_it_publishes_and_the_base(tmp_path: Path, trained_gpt2: Path) -> None:
    workspace = Workspace(tmp_path / "fleet", trained_gpt2)
    make_key(workspace.config.parent / "key.pem")
    text = workspace.config.read_text(encoding="utf-8")
    workspace.config.write_text(f'[signing]\nkey = "key.pem"\n{text}', encoding="utf-8")
    workspace.submit(BOHR)
    assert workspace.run(layouts=["hf"])["exit_code"] == 0
    trusted = [workspace.config.parent / "key.pub"]
    for ref in ("latest", "0"):
        pull(workspace.store, "homes", ref, tmp_path / f"pulled-{ref}", keys=Keyring(trusted=trusted))
    signature = signatures.require(workspace.store, workspace.release(), Keyring(trusted=trusted))
    assert (laid_out(workspace, 1) / "model.sig").read_bytes() == signature
    assert workspace.run()["models"][0]["status"] == "unchanged"
    assert signatures.require(workspace.store, workspace.release(), Keyring(trusted=trusted)) == signature


def test_a_night_that_dies_while_it_lays_out_publishes_nothing_and_the_next_one_does(
    tmp_path: Path, trained_gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "fleet", trained_gpt2)
    workspace.submit(BOHR, GAUSS)
    plain = layouts.assemble

    def dies(store: ObjectStore, release: publish.Release) -> str:
        return plain(DiesAtWrite(store, 3, after=True), release)

    monkeypatch.setattr(layouts, "assemble", dies)
    with pytest.raises(DiesAtWrite.Death):
        workspace.run(layouts=["hf"])
    assert workspace.release().number == 0
    assert not (laid_out(workspace, 1) / "config.json").exists()
    monkeypatch.setattr(layouts, "assemble", plain)
    assert workspace.run(layouts=["hf"])["exit_code"] == 0
    assert layouts.is_whole(workspace.store, workspace.release())
    assert nights.cache_home().exists()
