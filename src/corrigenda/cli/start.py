"""`corrigenda init`: a workspace to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("init")(init)


def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where; made if it is not there.")] = Path(),
) -> None:
    """Make a workspace: a commented fleet.toml, an empty queue, and templates of corrections as CSV and
    Parquet.

    No model is fetched. `corrigenda demo` does the whole job with one.

    Examples:
      corrigenda init
      corrigenda init fleet
    """
    from corrigenda.api import workspace

    for path in workspace.make(folder):
        print(path)
    print(
        "Name your model in fleet.toml, fill a template in, then: corrigenda submit corrections.csv --dry-run"
    )
