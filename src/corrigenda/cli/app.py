"""Assembles the command line from its groups."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

CONFIG = Annotated[
    Path,
    typer.Option("--config", help="The fleet's configuration file.", envvar="CORRIGENDA_CONFIG"),
]
JSON = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
DEFAULT_CONFIG = Path("fleet.toml")

# In the order in which `--help` lists them.
GROUPS = (
    "demo",
    "queue",
    "run",
    "serve",
    "status",
    "layers",
    "results",
    "release",
    "hold",
    "sharing",
    "upkeep",
)


def build_app() -> typer.Typer:
    """All commands. Importing this imports neither torch nor prefect."""
    app = typer.Typer(
        name="corrigenda",
        help="Nightly fact corrections for fleets of language models: rebase, never stack.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for group in GROUPS:
        importlib.import_module(f"corrigenda.cli.{group}").register(app)
    return app
