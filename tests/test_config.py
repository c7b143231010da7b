"""`fleet.toml`: read, checked, overridden; all faults at once, in words that say how to mend them."""

from __future__ import annotations

from pathlib import Path

import pytest

from corrigenda.config import FleetConfig, load_fleet, selects
from corrigenda.errors import ConfigError, NotFoundError

FLEET = """
[store]
url = "./store"
[queue]
url = "s3://bucket/queue"
endpoint_url = "http://localhost:8333"
[defaults.gates]
min_said = 0.9
[[models]]
name = "one"
source = "demo:one"
tags = ["chat", "small"]
[[models]]
name = "two"
source = "./two"
gates = { min_said = 0.5 }
editing = { targets = { steps = 7 } }
"""


@pytest.fixture
def fleet(tmp_path: Path) -> FleetConfig:
    return read(tmp_path, FLEET)


def read(folder: Path, text: str) -> FleetConfig:
    (folder / "fleet.toml").write_text(text, encoding="utf-8")
    return load_fleet(folder / "fleet.toml")


def test_a_file_is_read_whole(fleet: FleetConfig, tmp_path: Path) -> None:
    assert fleet.root == tmp_path
    assert (fleet.store.url, fleet.queue.endpoint_url) == ("./store", "http://localhost:8333")
    assert [model.name for model in fleet.models] == ["one", "two"]


def test_a_models_section_overrides_the_defaults_field_by_field(fleet: FleetConfig) -> None:
    one, two = (fleet.settings_of(fleet.model(name)) for name in ("one", "two"))
    assert (one.gates.min_said, two.gates.min_said) == (0.9, 0.5)
    assert two.gates.max_locality_drop == one.gates.max_locality_drop
    assert two.editing.targets == one.editing.targets.model_copy(update={"steps": 7})


def test_a_model_has_a_device_and_a_precision_of_its_own(tmp_path: Path) -> None:
    own = FLEET.replace('name = "two"', 'name = "two"\ndevice = "cuda:1"\ndtype = "bfloat16"')
    fleet = read(tmp_path, own)
    one, two = (fleet.settings_of(fleet.model(name)) for name in ("one", "two"))
    assert (one.device, one.dtype) == ("auto", "auto")
    assert (two.device, two.dtype) == ("cuda:1", "bfloat16")


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRIGENDA_STORE__URL", "s3://elsewhere")
    monkeypatch.setenv("CORRIGENDA_DEFAULTS__GATES__MIN_SAID", "0.25")
    fleet = read(tmp_path, FLEET)
    assert fleet.store.url == "s3://elsewhere"
    assert fleet.defaults.gates.min_said == 0.25


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as fault:
        read(tmp_path, '[store]\nurl = "s"\n[defaults.gates]\nmin_said = 2\nunknown = 1\n')
    for place in ("queue", "defaults.gates.min_said", "defaults.gates.unknown"):
        assert place in fault.value.remedy


def test_faults_of_a_models_section_name_the_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as fault:
        read(
            tmp_path,
            FLEET.replace("steps = 7 }", 'steps = "many" }, solver = "rome"')
            + "localization = { sampel = 9 }\n",
        )
    for said in (
        "model 'two': editing.targets.steps: ",
        "model 'two': editing.solver: ",
        "model 'two': localization.sampel: there is no such setting; did you mean `sample`?",
    ):
        assert said in fault.value.remedy


BARE = '[store]\nurl = "s"\n[queue]\nurl = "q"\n'


@pytest.mark.parametrize(
    ("misspelt", "place", "meant"),
    [
        ("[signing]\npublic_key = []\n", "signing.public_key", "did you mean `public_keys`?"),
        ("[default.gates]\n", "default", "did you mean `defaults`?"),
        ('[[models]]\nname = "m"\nsorce = "x"\n', "model 'm': sorce", "did you mean `source`?"),
        ("[signing]\nzzz = 1\n", "signing.zzz", "there are "),
        ("[defaults.editing]\nsteps = 9\n", "defaults.editing.steps", "did you mean `targets.steps`?"),
    ],
)
def test_a_misspelt_setting_gets_the_name_that_was_meant(
    tmp_path: Path, misspelt: str, place: str, meant: str
) -> None:
    with pytest.raises(ConfigError) as fault:
        read(tmp_path, BARE + misspelt)
    assert (
        fault.value.remedy.replace("setting here", "setting").count(
            f"{place}: there is no such setting; {meant}"
        )
        == 1
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "gates = { min_eficacy = 0.5 }",
        'gates = { min_said = "high" }',
        'gates = {}\nlocalization = { method = "rome" }',
        "gates = {}\nlocalization = { layer = -1 }",
    ],
)
def test_a_models_own_section_is_checked_when_the_file_is_read(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError):
        read(tmp_path, FLEET.replace("gates = { min_said = 0.5 }", wrong))


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "é:"])
def test_a_models_name_is_one_part_of_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        read(tmp_path, FLEET.replace('"one"', f'"{name}"'))


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than once: one"):
        read(tmp_path, FLEET.replace('"two"', '"one"'))


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="corrigenda init"):
        load_fleet(tmp_path / "fleet.toml")


@pytest.mark.parametrize("text", ["[store", "\x00", "a = 1\na = 2"])
def test_what_is_not_toml_is_a_configuration_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        read(tmp_path, text)


def test_an_unknown_model_is_answered_with_those_there_are(fleet: FleetConfig) -> None:
    with pytest.raises(NotFoundError) as fault:
        fleet.model("three")
    assert fault.value.facts["models"] == ["one", "two"]


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("one", ["one"]),
        ("*", ["one", "two"]),
        ("t*", ["two"]),
        ("tag:chat", ["one"]),
        ("tag:none", []),
        ("o", []),
    ],
)
def test_a_selector_is_a_name_a_glob_or_a_tag(fleet: FleetConfig, selector: str, names: list[str]) -> None:
    assert fleet.matching(selector) == names


def test_names_are_case_sensitive() -> None:
    assert not selects("One", "one", ())


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    fleet = read(tmp_path, FLEET.replace('url = "./store"', 'url = "s3://b"\nsecret_key = "hush"'))
    assert "hush" not in repr(fleet)
    assert fleet.store.secret_key == "hush"
