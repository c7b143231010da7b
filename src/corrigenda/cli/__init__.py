"""The command line: one module per group of commands, each with a `register(app)`.

Modules here import light things at the top (typer, rich); torch, prefect, pyarrow and duckdb are
imported inside the commands that need them, so that `--help` and `pull` stay fast.
"""

from __future__ import annotations

import sys

from corrigenda import terminal
from corrigenda.cli.app import build_app
from corrigenda.errors import CorrigendaError


def main() -> None:
    """Run a command; an error that we raise on purpose is one line on stderr and its exit code."""
    # Help is ours and may have its colours; all else may hold what others wrote.
    if not {"--help", "-h"}.intersection(sys.argv):
        terminal.protect()
    app = build_app()
    try:
        app()
    except CorrigendaError as fault:
        console = terminal.console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"[bold red]error:[/] {_escaped(str(fault))}")
        sys.exit(fault.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing is lost, the next run goes on from here\n")
        sys.exit(130)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
