"""The public names: sorted, described, cheap to import, and the same for people and for tools."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import corrigenda

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / ".ci"))
import docs  # noqa: E402

NAMES = corrigenda.public_names()


def test_names_are_sorted_and_listed_by_dir() -> None:
    assert sorted(NAMES) == NAMES
    assert set(NAMES) <= set(dir(corrigenda))


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there_and_described(name: str) -> None:
    thing = getattr(corrigenda, name)
    assert thing.__doc__
    for method, value in vars(thing).items() if isinstance(thing, type) else ():
        if not method.startswith("_") and callable(value):
            assert value.__doc__ or method in ("as_json", "failed"), f"{name}.{method}"


def test_tools_that_read_code_see_the_same_names() -> None:
    """The table of lazy imports and its twin under TYPE_CHECKING say the same."""
    tree = ast.parse((ROOT / "src/corrigenda/__init__.py").read_text(encoding="utf-8"))
    (twin,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for node in twin.body:
        assert isinstance(node, ast.ImportFrom)
        (alias,) = node.names
        assert alias.asname == alias.name
        seen[alias.name] = node.module
    assert sorted(seen) == NAMES
    for name, home in seen.items():
        assert getattr(import_module(str(home)), name) is getattr(corrigenda, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Flete'"):
        corrigenda.Flete  # noqa: B018


def test_the_reference_is_what_the_code_says() -> None:
    page = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    assert docs.rewritten(page) == page, "run `make docs`"
    assert re.findall(r"^## (\w+)", page, re.MULTILINE) == [name for name in NAMES if name != "errors"]


def test_the_import_brings_nothing_heavy() -> None:
    code = (
        "import corrigenda, sys; corrigenda.Fleet, corrigenda.pull, corrigenda.submit, corrigenda.open_store;"
        "heavy = {'torch', 'prefect', 'transformers', 'pyarrow', 'duckdb', 'numpy'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
