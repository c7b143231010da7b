"""The architecture, executable: who may import whom, what is mapped, and what stays out of light commands."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = {"errors", "facts", "config", "settings", "config_faults", "stored", "terminal", "version"}

# Each part with the parts of corrigenda and the distributions that it may import.
MAY_IMPORT = {
    "flows": (
        BASE | {"tasks", "pipeline", "storage"},
        {"prefect", "prefect_dask", "prefect_ray", "yaml", "uvicorn"},
    ),
    "tasks": (BASE, {"prefect"}),
    "src/corrigenda/api": (
        BASE | {"api", "flows", "pipeline", "models", "validation", "storage", "editing"},
        {"pyarrow", "duckdb"},
    ),
    "pipeline": (
        BASE | {"editing", "models", "validation", "storage"},
        {"torch", "safetensors", "pyarrow", "duckdb", "rich"},
    ),
    "editing": (BASE | {"models"}, {"torch", "numpy", "safetensors", "datasets"}),
    "models": (BASE, {"torch", "transformers", "safetensors", "huggingface_hub", "gguf", "numpy"}),
    "validation": (BASE | {"models"}, {"duckdb", "pyarrow", "jinja2", "numpy", "torch"}),
    "storage": (
        BASE,
        {
            "pyarrow",
            "duckdb",
            "openpyxl",
            "boto3",
            "botocore",
            "numpy",
            "model_signing",
            "cryptography",
            "huggingface_hub",
            "yaml",
        },
    ),
}
# The wings of a part, each with the wings beside it that it may import.
WINGS = {
    "storage/objects": set(),
    "storage/corrections": {"objects"},
    "storage/releases": {"objects", "corrections"},
    "storage/delivery": {"objects", "corrections", "releases"},
    "editing/background": set(),
    "editing/targets": {"background"},
    "editing/solve": {"targets"},
    "editing/localization": {"background", "targets", "solve"},
}
BARE_IMPORT_OF_THE_COMMAND_LINE = {"corrigenda", "typer", "rich"}
# Imported by commands when they run, never when the command line is put together.
LATE = {"layer_picture"}
CLI = [path for path in sorted((ROOT / "src/corrigenda/cli").glob("*.py")) if path.stem not in LATE]
HEAVY = ("torch", "transformers", "prefect", "pyarrow", "duckdb", "boto3", "pydantic_settings")


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Dotted names of all modules that a file imports, outside of `if TYPE_CHECKING` when at the top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            whole = node.module == "corrigenda"
            yield from (f"corrigenda.{a.name}" for a in node.names) if whole else (node.module or "",)


def foreign(names: Iterator[str]) -> set[str]:
    """The distributions among the names: neither corrigenda's nor the standard library's."""
    return {name.partition(".")[0] for name in names} - {"corrigenda", *sys.stdlib_module_names}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_each_part_imports_only_what_lies_below_it(part: str) -> None:
    inside, outside = MAY_IMPORT[part]
    for path in (ROOT / part).rglob("*.py"):
        own = {name.split(".")[1] for name in imports(path) if name.startswith("corrigenda.")}
        assert own - {part} <= inside, path
        assert foreign(imports(path)) <= outside, path


@pytest.mark.parametrize("wing", WINGS)
def test_arrows_between_wings_run_one_way(wing: str) -> None:
    part, own = wing.split("/")
    for path in (ROOT / wing).rglob("*.py"):
        beside = {n.split(".")[2] for n in imports(path) if n.startswith(f"corrigenda.{part}.")}
        assert beside - {own} <= WINGS[wing], path


def test_every_wing_says_what_it_is() -> None:
    for wing in WINGS:
        assert ast.get_docstring(ast.parse((ROOT / wing / "__init__.py").read_text(encoding="utf-8"))), wing
    assert {f"{path.parent.parent.name}/{path.parent.name}" for path in ROOT.glob("*/*/__init__.py")} - {
        "src/corrigenda",
        "validation/queries",
    } == set(WINGS)


def modules() -> dict[str, Path]:
    """All modules of the package, by dotted name."""
    package = ROOT / "src/corrigenda"
    files = [*package.glob("*.py"), *(p for d in package.iterdir() if d.is_dir() for p in d.rglob("*.py"))]
    names = (".".join(["corrigenda", *path.relative_to(package).with_suffix("").parts]) for path in files)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports inside of functions count: a circle that is hidden is a circle."""
    known = modules()
    below = {name: targets(path, known) - {name} for name, path in known.items()}
    while leaves := {name for name, needs in below.items() if not needs & below.keys()}:
        for name in leaves:
            del below[name]
    assert not below


def targets(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules that a file imports, `from package import module` included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            each = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in each}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known.keys()


def test_the_base_modules_import_no_other_part() -> None:
    for name in ("errors", "facts", "config", "settings", "stored", "terminal"):
        path = ROOT / "src" / "corrigenda" / f"{name}.py"
        own = {n.split(".")[1] for n in imports(path) if n.startswith("corrigenda.")}
        assert own <= BASE, path
        assert foreign(imports(path)) <= {"pydantic", "pydantic_settings", "pyarrow", "rich"}, path


@pytest.mark.parametrize("path", CLI, ids=lambda path: path.stem)
def test_command_line_modules_import_heavy_things_only_inside_commands(path: Path) -> None:
    assert foreign(imports(path, top_level_only=True)) <= BARE_IMPORT_OF_THE_COMMAND_LINE
    own = {n for n in imports(path, top_level_only=True) if n.startswith("corrigenda.")}
    assert {n.split(".")[1] for n in own} <= {"cli", "errors", "terminal"}, path


@pytest.mark.parametrize("path", [*(ROOT / "src/corrigenda/cli").glob("*.py")], ids=lambda path: path.stem)
def test_the_command_line_imports_the_api_and_errors_alone(path: Path) -> None:
    own = {name.split(".")[1] for name in imports(path) if name.startswith("corrigenda.")}
    assert own <= {"cli", "api", "errors", "terminal"}, path


def test_every_folder_of_code_is_a_part_of_the_package() -> None:
    """A forgotten link would leave a folder out of the wheel and out of every tool's sight."""
    package = ROOT / "src/corrigenda"
    at_the_top = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    links = {path.name: path.readlink() for path in package.iterdir() if path.is_symlink()}
    assert links == {name: Path("../..") / name for name in at_the_top}


@pytest.mark.parametrize("command", [["--help"], ["status", "--help"], ["pull", "--help"]], ids=" ".join)
def test_light_commands_import_nothing_heavy(command: list[str]) -> None:
    script = (
        "import sys\nfrom corrigenda.cli import main\n"
        f"sys.argv = ['corrigenda', *{command!r}]\n"
        "try:\n    main()\nfinally:\n"
        f"    print('IMPORTED', *(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "IMPORTED"


def test_help_takes_less_than_half_a_second_of_cpu() -> None:
    command = [sys.executable, "-c", "from corrigenda.cli import main; main()", "--help"]
    assert min(cpu_seconds(command) for _ in range(3)) < 0.5


def cpu_seconds(command: list[str]) -> float:
    """User and system time of one run of a command, once its bytecode is there."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


# One word may stand in several modules where it says the same of each.
SAME_IN_ALL = {"VERSION", "log"}


def test_a_public_name_means_one_thing() -> None:
    """Classes, type aliases and constants at the top of modules; functions are told apart by their module."""
    homes: dict[str, list[str]] = {}
    for module, path in modules().items():
        for name in top_level_names(path):
            if not name.startswith("_") and name not in SAME_IN_ALL and len(name) > 1:
                homes.setdefault(name, []).append(module)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def top_level_names(path: Path) -> Iterator[str]:
    """Of classes and assignments."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))
