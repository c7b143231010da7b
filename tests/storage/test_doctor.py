"""The doctor and the commands around it: what a person at a terminal sees."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from releases import EDITABLE, MODEL, checkpoint, register, release, save
from store_servers import location
from typer.testing import CliRunner

from corrigenda.cli import release as release_commands
from corrigenda.cli import upkeep
from corrigenda.errors import CorruptBlobError, NotFoundError
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.local import LocalStore
from corrigenda.storage.objects.s3 import S3Store
from corrigenda.storage.releases import doctor, lease, refs


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A directory with a configuration, a store with two releases, and an empty queue."""
    (tmp_path / "queue").mkdir()
    (tmp_path / "fleet.toml").write_text(
        '[store]\nurl = "./store"\n[queue]\nurl = "./queue"\n[[models]]\nname = "tiny"\nsource = "x"\n'
    )
    store = LocalStore.open(tmp_path / "store", create=True)
    release(store, register(store, save(tmp_path / "base", checkpoint())), seed=7)
    monkeypatch.chdir(tmp_path)
    return store


def run(*arguments: str):
    app = typer.Typer(pretty_exceptions_enable=False)
    release_commands.register(app)
    upkeep.register(app)
    return CliRunner().invoke(app, arguments)


def faults(store, deep=False) -> list[str]:
    return [f"{f.subject}: {f.what}" for f in doctor.examine(store, deep=deep) if f.level != "ok"]


def test_a_healthy_store_has_nothing_to_mend(workspace):
    assert faults(workspace, deep=True) == []
    assert sorted(info.key for info in workspace.list("probes/")) == []
    done = run("doctor", "--deep", "--json")
    assert done.exit_code == 0
    assert {finding["level"] for finding in json.loads(done.stdout)} == {"ok"}


def test_a_missing_and_a_damaged_blob_are_named_by_their_file(workspace):
    head = doctor.manifests.read(workspace, MODEL, 1)
    workspace.delete(blobs.key(head.files["config.json"].digest))
    path = workspace.root / blobs.key(head.files["tokenizer.json"].digest)
    path.write_bytes(b"x" * path.stat().st_size)
    assert faults(workspace) == [
        f"{MODEL}@{n}: config.json: a blob is missing from the store" for n in (1, 0)
    ]
    assert f"{MODEL}@1: tokenizer.json: stored bytes do not match their digest" in faults(
        workspace, deep=True
    )
    assert run("doctor").exit_code == 7


def test_a_damaged_ref_is_a_finding(workspace):
    (workspace.root / refs.key(MODEL, "latest")).write_bytes(b"{}")
    assert faults(workspace) == [f"{MODEL}@latest: a ref is damaged"]


def test_who_is_at_work_is_said(workspace):
    with lease.hold(workspace, MODEL, "the nightly run"):
        said = " ".join(finding.what for finding in doctor.examine(workspace))
    assert "is being worked on by the nightly run" in said


def test_a_store_that_overwrites_is_named(rclone_endpoint):
    store = S3Store.connect(location(rclone_endpoint, "doctor"))
    assert any("ignores conditional writes" in fault for fault in faults(store))


def test_a_healthy_bucket_has_nothing_to_mend(weed_store, tmp_path):
    register(weed_store, save(tmp_path / "base", checkpoint()))
    assert faults(weed_store, deep=True) == []


def test_a_missing_configuration_and_store_are_findings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("doctor")
    assert done.exit_code == 7 and "there is no configuration" in done.stdout
    (tmp_path / "fleet.toml").write_text('[store]\nurl = "./store"\n[queue]\nurl = "./queue"\n')
    done = run("doctor")
    assert done.exit_code == 7 and done.stdout.count("there is no store in this place") == 2


def test_pull_check_and_rollback_at_the_terminal(workspace, tmp_path):
    assert "tiny@1" in run("pull", MODEL, "dest").stdout
    assert "is up to date" in run("pull", MODEL, "dest").stdout
    assert "files are whole" in run("pull", MODEL, "dest", "--check").stdout
    said = json.loads(run("pull", f"{MODEL}@0", "dest", "--json", "--store", "store").stdout)
    assert (said["release"], said["downloaded_bytes"] < 2000) == (0, True)
    assert isinstance(run("pull", f"{MODEL}@1", "dest", "--check").exception, CorruptBlobError)
    assert isinstance(run("pull", f"{MODEL}@7", "dest").exception, NotFoundError)
    assert "latest is release 0" in run("rollback", MODEL, "--to", "0", "--reason", "why").stdout
    assert json.loads(run("rollback", MODEL, "--to", "1", "--json").stdout)["release"] == 1


def test_an_adapter_at_the_terminal(workspace, tmp_path):
    said = json.loads(run("pull", MODEL, "adapter", "--layout", "lora", "--json").stdout)
    assert said["rank"] >= 1 and said["relative_error"] <= 1e-3
    names = {"adapter_config.json", "adapter_model.safetensors", "corrigenda.json"}
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == names


def test_gc_deletes_only_when_told(workspace):
    orphan = blobs.key(blobs.put(workspace, b"orphan").digest)
    dry = run("gc", "--grace-days", "0")
    assert orphan in dry.stdout and "nothing was" in dry.stdout and workspace.stat(orphan)
    wet = json.loads(run("gc", "--grace-days", "0", "--delete", "--json").stdout)
    assert wet["keys"] == [orphan] and workspace.stat(orphan) is None


def test_a_pulled_directory_loads_with_plain_numpy(workspace, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    run("pull", MODEL, "dest")
    found = {}
    for path in (tmp_path / "dest").glob("*.safetensors"):
        found |= numpy.load_file(path)
    assert sorted(found) == sorted(checkpoint()) and found[EDITABLE[0]].shape == (8, 16)


def test_the_commands_start_without_heavy_imports():
    code = (
        "import sys, corrigenda.cli.release, corrigenda.cli.upkeep;"
        "sys.exit(', '.join({'boto3', 'pyarrow', 'pydantic', 'torch'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
