"""The README says what the code does."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from corrigenda.cli.app import build_app
from corrigenda.config import FleetConfig

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / ".ci"))
import docs  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [path for path in ROOT.rglob("*.md") if not {"build", ".venv", "demo"} & set(path.parts)]


@pytest.mark.parametrize("page", docs.PAGES, ids=lambda page: page.stem)
def test_the_tables_are_those_of_the_code(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert docs.rewritten(text) == text, "run `make docs`"


def test_the_schema_of_the_configuration_is_that_of_the_code() -> None:
    assert docs.SCHEMA.read_text(encoding="utf-8") == docs.schema(), "run `make docs`"


def test_its_configuration_is_valid() -> None:
    (example,) = (text for text in fenced("toml") if "[[models]]" in text)
    fleet = FleetConfig(**tomllib.loads(example))
    assert [model.name for model in fleet.models] == ["smollm2-135m", "llama-8b"]


def test_the_commands_it_shows_exist() -> None:
    known = {command.name or command.callback.__name__ for command in build_app().registered_commands}
    shown = {name for text in [README, *fenced("sh")] for name in re.findall(r"`?corrigenda ([a-z]+)", text)}
    assert shown - {"demo"} <= known, shown - known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page} links to {target}"


def fenced(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
