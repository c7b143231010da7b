"""Localization in a night: remembered under all it depends on, and shown by `corrigenda layers`."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
import typer
from bases import BASE, of_base
from tiny_models import FACTS, tiny
from typer.testing import CliRunner

from corrigenda.cli import layers
from corrigenda.editing.localization import trials
from corrigenda.editing.localization.layer_scores import LayerScores
from corrigenda.errors import UsageError
from corrigenda.models.sampling import sample_rows
from corrigenda.pipeline import localize as stage
from corrigenda.pipeline.base import Base
from corrigenda.pipeline.night import Night
from corrigenda.settings import Localization
from corrigenda.storage.corrections.intake import Intake


@pytest.fixture
def facts_file(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(json.dumps(asdict(fact)) for fact in FACTS), encoding="utf-8")
    return path


def by_gradients(facts):
    return Localization(method="lga", proxy_facts=str(facts))


@pytest.fixture
def runs(monkeypatch):
    """Counts how often a layer is really looked for."""
    counted, real = [], stage.find_layer
    monkeypatch.setattr(stage, "find_layer", lambda *args: counted.append(1) or real(*args))
    return counted


def test_an_unchanged_model_localizes_once(night, facts_file, runs):
    settings, model = by_gradients(facts_file), tiny("llama")
    first = stage.localize_model(Base(night, BASE, model), settings)
    assert stage.localize_model(Base(night, BASE, model), settings) == first and len(runs) == 1
    assert stage.localize_model(Base(night, BASE, model), settings, fresh=True) == first and len(runs) == 2


def test_whatever_can_change_the_pick_changes_the_key(night, facts_file, runs):
    model, settings = tiny("llama"), by_gradients(facts_file)
    stage.localize_model(Base(night, BASE, model), settings)
    stage.localize_model(Base(night, of_base(weights_digest="other"), model), settings)
    stage.localize_model(Base(night, of_base(tokenizer_digest="other"), model), settings)
    for change in ({"method": "lga-unfenced"}, {"seed": 1}, {"sample": 5}, {"loss": "answer"}):
        stage.localize_model(Base(night, BASE, model), settings.model_copy(update=change))
    facts_file.write_text("\n".join(facts_file.read_text().splitlines()[:5]), encoding="utf-8")
    stage.localize_model(Base(night, BASE, model), settings)
    assert len(runs) == 8


def test_trials_depend_on_the_background_text_and_nothing_else_does(night, facts_file, runs):
    model = tiny("llama", dtype=torch.float32)
    other = Night(night.fleet, "tiny", Intake({}, {}))
    other.settings = other.settings.model_copy(
        update={"covariance": other.settings.covariance.model_copy(update={"seed": 7})}
    )
    for method, expected in (("lga", 1), ("two-stage", 3)):
        settings = Localization(method=method, trials=2, proxy_facts=str(facts_file))
        for which in (night, other, night):
            stage.localize_model(Base(which, BASE, model), settings)
        assert len(runs) == expected


def test_the_name_of_the_facts_file_changes_nothing(night, facts_file, runs):
    model = tiny("llama")
    copy = facts_file.with_name("copy.jsonl")
    copy.write_bytes(facts_file.read_bytes())
    for path in (facts_file, copy):
        stage.localize_model(Base(night, BASE, model), by_gradients(path))
    assert len(runs) == 1


def test_a_damaged_entry_is_found_again(night, facts_file, runs):
    settings, model = by_gradients(facts_file), tiny("llama")
    first = stage.localize_model(Base(night, BASE, model), settings)
    for info in list(night.store.list("blobs/")):
        night.store.delete(info.key)
        night.store.create(info.key, b"{}")
    assert stage.localize_model(Base(night, BASE, model), settings) == first and len(runs) == 2


def test_a_model_that_knows_too_little_is_asked_all_the_same_with_a_warning(night, facts_file):
    found = stage.localize_model(Base(night, BASE, tiny("gpt2")), by_gradients(facts_file))
    assert found.n_facts == len(FACTS) and any("unknown ones" in warning for warning in found.warnings)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_two_stages_edit_and_leave_the_model_as_it_was(night, facts_file, kind):
    model = tiny(kind, dtype=torch.float32)
    before = [model.weight(layer).clone() for layer in range(model.n_layers)]
    settings = Localization(method="two-stage", trials=2, proxy_facts=str(facts_file))
    found = stage.localize_model(Base(night, BASE, model), settings)
    assert found.pick in found.trials and 2 <= len(found.trials) <= model.n_layers
    assert all(torch.equal(was, model.weight(layer)) for layer, was in enumerate(before))


def test_a_trial_edit_teaches_the_facts_and_counts_its_harm(monkeypatch):
    """A network that knows nothing hardly listens: a light background, long steps, and exact products."""
    plain = {"products": "float32", "covariance_weight": 0.1, "first_step": 0.5}
    monkeypatch.setattr(trials, "TRUNCATED", trials.TRUNCATED.model_copy(update=plain))
    model = tiny("llama", dtype=torch.float32)
    around = trials.Surroundings.of(model, sample_rows(model, 40, 64, seed=0))
    before = trials.grade(model, FACTS, around)
    after = trials.try_layer(model, FACTS, 1, around)
    assert after.efficacy > before.efficacy
    assert abs(before.drift) < 1e-3
    noise = torch.randn(model.weight(1).shape, generator=torch.Generator().manual_seed(0))
    with model.trial({1: 10 * noise.double()}):
        harmed = trials.grade(model, FACTS, around)
    assert harmed.drift > 0.001
    assert harmed.overall < (harmed.efficacy + harmed.paraphrase + harmed.neighbourhood) / 3 - 0.001


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(UsageError, match="two-stage"):
        stage._with_method(Localization(), "nonsense")


@pytest.fixture
def fleet(tmp_path, facts_file, monkeypatch):
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "cache"))
    model = tiny("llama", dtype=torch.float32)
    model.network.save_pretrained(tmp_path / "tiny")
    model.tokenizer.save_pretrained(tmp_path / "tiny")
    config = tmp_path / "fleet.toml"
    config.write_text(
        f"""store = {{ url = "./store" }}
queue = {{ url = "./queue" }}
[defaults.covariance]
tokens = 1000
length = 16
[defaults.localization]
proxy_facts = "{facts_file.name}"
[[models]]
name = "tiny"
source = "./tiny"
""",
        encoding="utf-8",
    )
    return config


def invoke(*words):
    app = typer.Typer()
    app.callback()(lambda: None)
    layers.register(app)
    return CliRunner().invoke(app, ["layers", "tiny", *map(str, words)])


def test_layers_shows_a_table_a_picture_and_json(fleet, tmp_path):
    plot = tmp_path / "layers.svg"
    shown = invoke("--config", fleet, "--plot", plot)
    assert shown.exit_code == 0, shown.output
    assert "golden" in shown.stdout and "█" in shown.stdout and plot.read_text().startswith("<?xml")
    as_json = invoke("--config", fleet, "--json")
    found = LayerScores.from_json(json.loads(as_json.stdout))
    assert f"golden layer: {found.pick}" in shown.stdout and len(found.scores) == 4


def test_layers_refuses_a_picture_of_an_unknown_kind(fleet):
    done = invoke("--config", fleet, "--plot", "x.bmp")
    assert isinstance(done.exception, UsageError)
