"""Nights of a fleet that signs: they sign what they made, and build on nothing that others wrote."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fleets import Workspace, move
from made_keys import make_key
from safetensors.torch import load, save

from corrigenda.errors import SetupError
from corrigenda.pipeline.night import open_fleet
from corrigenda.pipeline.order import run_fleet
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.cache import Cache
from corrigenda.storage.releases import manifests, refs
from corrigenda.storage.releases.refs import Ref

BOHR, GAUSS = move("Bohr", "Rome"), move("Gauss", "Vienna")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, trained_gpt2: Path) -> Path:
    """A workspace of a fleet that signs, whose first correction is published."""
    root = tmp_path_factory.mktemp("signed")
    workspace = Workspace(root / "fleet", trained_gpt2)
    make_key(workspace.config.parent / "key.pem")
    text = workspace.config.read_text(encoding="utf-8")
    workspace.config.write_text(f'[signing]\nkey = "key.pem"\n{text}', encoding="utf-8")
    workspace.submit(BOHR)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CORRIGENDA_CACHE", str(root / "cache"))
        assert night(workspace)["status"] == "published"
    return root


@pytest.fixture
def signed(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy of the published workspace, to do with as one likes."""
    shutil.copytree(published, tmp_path / "copy")
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "copy/cache"))
    workspace = Workspace.__new__(Workspace)
    workspace.config = tmp_path / "copy/fleet/fleet.toml"
    return workspace


def night(workspace: Workspace) -> dict:
    return run_fleet(open_fleet(workspace.config))["models"][0]


def signatures_in(workspace: Workspace) -> set[str]:
    return {info.key for info in workspace.store.list("models/homes/signatures/")}


def test_an_idle_night_signs_nothing_that_others_wrote(signed: Workspace) -> None:
    store, head, before = signed.store, signed.release(), signatures_in(signed)
    code = blobs.put(store, b"import os")
    evil = manifests.write(store, replace(head, number=7, files=head.files | {"evil.py": code}))
    refs.advance(
        store, "homes", "latest", seen=refs.read(store, "homes", "latest"), to=Ref.to(evil, "passed")
    )
    for _ in range(2):
        said = night(signed)
        assert (said["status"], said["exit_code"]) == ("failed", 7)
        assert "was not moved by anybody whose key is trusted" in said["error"]
    signed.submit(GAUSS)
    assert night(signed)["status"] == "failed"
    assert signatures_in(signed) == before


def test_cached_targets_that_nobody_sealed_are_computed_again(signed: Workspace) -> None:
    """An attacker's targets, in a whole pack, under its right name, in the place of ours."""
    store = signed.store
    (pack,) = store.list("cache/edits/packs/")
    targets = load(Cache(store).lookup_packs("edits", pack.key.split("/")[3])[0])
    evil = blobs.put(store, save({name: -tensor for name, tensor in targets.items()}))
    store.delete(pack.key)
    store.create(f"{pack.key.rpartition('/')[0]}/{evil.digest}", json.dumps(evil.to_json()).encode())
    signed.submit(GAUSS)
    assert night(signed)["edits"]["computed"] == 2
    signed.submit(move("Hopper", "Paris"))
    assert night(signed)["edits"]["computed"] == 1


def test_signing_older_releases_is_a_step_of_its_own(signed: Workspace) -> None:
    from corrigenda.api.fleet import Fleet

    for key in signatures_in(signed):
        signed.store.delete(key)
    said = night(signed)
    assert "corrigenda sign homes" in said["error"] and not signatures_in(signed)
    assert Fleet.open(signed.config).sign("homes").new
    assert night(signed)["status"] == "unchanged"


def test_a_run_that_hosts_would_refuse_does_not_begin(signed: Workspace) -> None:
    """Hosts check, and there is no key here: to find that out when the work is done would be late."""
    text = signed.config.read_text(encoding="utf-8")
    signed.config.write_text(text.replace('key = "key.pem"', 'public_keys = ["key.pub"]'), encoding="utf-8")
    assert "no key here to sign with" in night(signed)["error"]
    signed.config.write_text(text.replace("key.pem", "absent.pem"), encoding="utf-8")
    signed.submit(GAUSS)
    with pytest.raises(SetupError, match="signing key cannot be used"):
        run_fleet(open_fleet(signed.config))


def test_an_idle_night_confirms_what_is_about_to_expire(signed: Workspace) -> None:
    text = signed.config.read_text(encoding="utf-8")
    signed.config.write_text(text.replace("[signing]\n", "[signing]\nvalid_days = 7\n"), encoding="utf-8")
    before = refs.require(signed.store, "homes", "latest")
    assert before.expires_at is None and night(signed)["status"] == "unchanged"
    after = refs.require(signed.store, "homes", "latest")
    assert after.expires_at and (after.release, after.previous) == (before.release, before.previous)
    night(signed)
    assert refs.require(signed.store, "homes", "latest") == after
