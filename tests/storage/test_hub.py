"""Pushing to a hub, with the hub's own client against a small hub; and the card that goes with it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import typer
import yaml
from fake_hub import TOKEN, FakeHub
from hypothesis import given
from hypothesis import strategies as st
from releases import EDITABLE, MODEL, checkpoint, raw, register, save
from releases import stage as stage_release
from typer.testing import CliRunner

from corrigenda.cli import sharing
from corrigenda.errors import NotFoundError, SetupError, StorageError, UsageError
from corrigenda.models.sources import hub_id_of
from corrigenda.storage.delivery import card, hub
from corrigenda.storage.delivery.pull import pull
from corrigenda.storage.releases import publish, refs
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.publish import Candidate

REPO = "acme/tiny-corrected"
GATES = {
    "passed": True,
    "gates": [
        {"gate": "said", "figure": 0.984375, "threshold": 0.95, "passed": True},
        {"gate": "drift_nats", "figure": None, "threshold": 0.1, "passed": False},
    ],
}
BASE_CARD = "---\nlicense: apache-2.0\nlanguage:\n- en\ntags: [other]\n---\n# The base\n"


@pytest.fixture
def released(local_store, tmp_path):
    """A base with a card of its own, and a release of it that passed its gates."""
    directory = save(tmp_path / "base", checkpoint())
    (directory / "README.md").write_text(BASE_CARD)
    base = register(local_store, directory)
    seen = refs.read(local_store, MODEL, "latest")
    counts = {"run_id": "r", "active": 64, "quarantined": 2, "rejected": 0}
    candidate = Candidate(layer=1, gates=GATES, counts=counts)
    made = stage_release(local_store, base, {EDITABLE[1]: raw(7)}, candidate, parent=base)
    publish.promote(local_store, made, seen=seen)
    return made


@pytest.fixture
def server(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol is not the hub's own
    running = FakeHub()
    yield running
    running.close()


@pytest.fixture
def api(server):
    from huggingface_hub import HfApi

    return HfApi(endpoint=server.endpoint, token=TOKEN)


def test_a_push_is_one_commit_with_the_release_its_card_and_a_tag(
    local_store, released, api, server, tmp_path
):
    pull(local_store, MODEL, "latest", tmp_path / "dest")
    text = card.card_of(local_store, released, base_model="owner/base")
    done = hub.push(api, released, tmp_path / "dest", text, REPO, private=True)
    there = server.repositories[REPO]
    assert there.private and there.commits == ["tiny, release 1"] and done.removed == ()
    assert there.tags == {"release-1": done.commit}
    assert there.files["README.md"].decode() == text
    assert set(there.files) == set(released.files)
    for path in set(released.files) - {"README.md"}:
        assert there.files[path] == (tmp_path / "dest" / path).read_bytes()


def test_what_the_hub_has_is_not_sent_again_and_stale_weights_go(
    local_store, released, api, server, tmp_path
):
    pull(local_store, MODEL, "0", tmp_path / "base0")
    base = publish.manifests.read(local_store, MODEL, 0)
    hub.push(api, base, tmp_path / "base0", "---\n---\n", REPO)
    server.repositories[REPO].files |= {"model.safetensors": b"stale", "notes.txt": b"mine"}
    sent = server.received
    pull(local_store, MODEL, "latest", tmp_path / "dest")
    done = hub.push(api, released, tmp_path / "dest", "---\n---\n", REPO)
    changed = [path for path, ref in released.files.items() if base.files[path] != ref]
    assert server.received - sent == sum(released.files[path].size for path in changed)
    assert done.removed == ("model.safetensors",)
    files = server.repositories[REPO].files
    assert "notes.txt" in files and "model.safetensors" not in files
    sent = server.received
    hub.push(api, released, tmp_path / "dest", "---\n---\n", REPO)
    assert server.received == sent and set(server.repositories[REPO].tags) == {"release-0", "release-1"}


def test_a_hub_that_refuses_or_fails_is_one_clear_line(local_store, released, api, server, tmp_path):
    from huggingface_hub import HfApi

    pull(local_store, MODEL, "latest", tmp_path / "dest")
    stranger = HfApi(endpoint=server.endpoint, token="hf_wrong")
    with pytest.raises(SetupError, match="the hub refuses") as refused:
        hub.push(stranger, released, tmp_path / "dest", "---\n---\n", REPO)
    assert not refused.value.retryable and "HF_TOKEN" in refused.value.remedy
    server.fail_commits = 1
    with pytest.raises(StorageError, match="could not be pushed") as failed:
        hub.push(api, released, tmp_path / "dest", "---\n---\n", REPO)
    assert failed.value.retryable
    assert server.repositories[REPO].files == {}
    hub.push(api, released, tmp_path / "dest", "---\n---\n", REPO)
    assert server.repositories[REPO].commits == ["tiny, release 1"]


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "a/", "/b", "a/../b", "ü/b", "a b/c", ".a/b"])
def test_what_is_no_repository_is_refused(name):
    with pytest.raises(UsageError, match="no repository"):
        hub.check_repository(name)


def front_matter(text: str) -> dict[str, object]:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_says_what_was_corrected_how_it_was_tested_and_from_what(local_store, released):
    text = card.card_of(local_store, released, base_model="owner/base")
    said = front_matter(text)
    assert said["base_model"] == "owner/base" and said["base_model_relation"] == "finetune"
    assert (said["license"], said["language"]) == ("apache-2.0", ["en"]) and "corrigenda" in said["tags"]
    assert "with 64 corrections of facts" in text
    for line in (
        "| active | 64 |", "| quarantined | 2 |", "| `said` | `0.9844` | `0.95` | yes |",
        "| `drift_nats` | `none` | `0.1` | no |", f"| manifest (SHA-256) | `{released.digest}` |",
        f"| digest of the base's weights | `{released.base['weights_digest']}` |",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert "## Limits" in text


def test_the_base_and_a_private_source_are_told_as_what_they_are(local_store, released):
    base = publish.manifests.read(local_store, MODEL, 0)
    text = card.card_of(local_store, base, base_model="owner/base")
    assert "nothing in its weights was changed" in text and "## Tests" not in text
    private = replace(released, base=dict(released.base) | {"source": "/home/jo/secret-model"})
    text = card.card_of(local_store, private)
    assert "secret" not in text and "base_model" not in text and "| base | `not public` |" in text


HOSTILE = "x`\n---\nlicense: evil\n---\n# <script>alert(1)</script> | a | [b](javascript:c) \u202e{{ d }}"


def test_hostile_strings_stay_inside_of_their_cells(released):
    evil = {"gate": HOSTILE, "figure": HOSTILE, "threshold": HOSTILE, "passed": True}
    bad = replace(
        released,
        base={"weights_digest": HOSTILE},
        created_at=HOSTILE,
        counts={"active": HOSTILE},
        gates={"gates": [evil, HOSTILE, 3]},
    )
    text = card.card(bad, HOSTILE.encode(), base_model=HOSTILE)
    said = front_matter(text)
    assert said["base_model"] == " ".join(HOSTILE.split()) and "license" not in said
    body = text.split("---\n", 2)[2]
    assert "\u202e" not in body and not any(line.startswith("# <script") for line in body.splitlines())
    for line in (line for line in body.splitlines() if "script" in line):
        spans = line.replace("\\|", "").split("`")
        assert len(spans) % 2 == 1 and not any("script" in outside for outside in spans[::2])


@given(st.binary(max_size=200))
def test_any_card_of_a_base_gives_a_card(junk):
    release = Release(model="m", number=1, files={}, created_at="now", counts={"active": 1})
    assert front_matter(card.card(release, b"---\n" + junk + b"\n---\n"))["library_name"] == "transformers"


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("demo:smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"), ("demo:unknown", None),
        ("owner/name-1.5_b", "owner/name-1.5_b"), ("./models/x", None), ("/abs/path", None), ("a/b/c", None),
        ("~/x", None), ("s3://bucket/prefix", None), ("models/x.gguf", None), ("name", None),
    ],
)  # fmt: skip
def test_only_public_ids_are_named(source, known):
    assert hub_id_of(source) == known


def test_push_at_the_terminal(released, server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "fleet.toml").write_text('[store]\nurl = "./store"\n[queue]\nurl = "./queue"\n')
    app = typer.Typer(pretty_exceptions_enable=False)
    sharing.register(app)

    def run(*arguments):
        return CliRunner().invoke(app, ["push", *arguments])

    dry = run(MODEL, REPO, "--dry-run", "--base-model", "owner/base")
    assert dry.stdout.startswith("---\n") and "would push" in dry.stderr and REPO not in server.repositories
    from huggingface_hub import HfApi

    monkeypatch.setattr(hub, "client", lambda: HfApi(endpoint=server.endpoint, token=TOKEN))
    said = json.loads(run(f"{MODEL}@1", REPO, "--json").stdout)
    assert (said["release"], said["tag"]) == (1, "release-1")
    assert "tag release-1" in run(MODEL, REPO).stdout
    assert isinstance(run("absent", REPO).exception, NotFoundError)
