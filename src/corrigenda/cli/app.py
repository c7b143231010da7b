"""Assembles the command line from its groups."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Annotated

import typer

CONFIG = Annotated[
    Path,
    typer.Option("--config", help="The fleet's configuration file.", envvar="CORRIGENDA_CONFIG"),
]


def _version(asked: bool) -> None:
    if asked:
        import corrigenda

        print(f"corrigenda {corrigenda.__version__}")
        raise typer.Exit


JSON = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
DEFAULT_CONFIG = Path("fleet.toml")

# In the order in which `--help` lists them.
GROUPS = (
    "demo",
    "start",
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


def common(
    version: Annotated[
        bool, typer.Option("--version", help="Say the version and leave.", is_eager=True, callback=_version)
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", help="The same as behind the command.", show_default=False)
    ] = None,
) -> None:
    """Nightly fact corrections for fleets of language models: rebase, never stack."""
    if config is not None:
        # Every command reads its own --config from here when it is not given.
        os.environ["CORRIGENDA_CONFIG"] = str(config)


def build_app() -> typer.Typer:
    """All commands. Importing this imports neither torch nor prefect."""
    app = typer.Typer(
        name="corrigenda",
        help="Nightly fact corrections for fleets of language models: rebase, never stack.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(common)
    for group in GROUPS:
        importlib.import_module(f"corrigenda.cli.{group}").register(app)
    return app
