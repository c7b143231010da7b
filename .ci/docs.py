"""Writes the README's tables anew from the code that they describe: columns, commands, exit codes.

    python .ci/docs.py            write them
    python .ci/docs.py --check    fail when they differ (a test does this)

A table stands between `<!-- NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

from corrigenda import errors
from corrigenda.cli.app import build_app
from corrigenda.storage.corrections.schemas import documentation_table

README = Path(__file__).parents[1] / "README.md"


def commands() -> str:
    """Every command with the first sentence of its help."""
    rows = ["| command | |", "|---|---|"]
    for command in build_app().registered_commands:
        assert command.callback
        name = command.name or command.callback.__name__
        summary = (inspect.getdoc(command.callback) or "").split("\n\n")[0].replace("\n", " ")
        rows.append(f"| `corrigenda {name}` | {summary} |")
    return "\n".join(rows) + "\n"


def exit_codes() -> str:
    """Every exit code with the errors that give it."""
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.CorrigendaError)
    ]
    first = {kind.exit_code: kind for kind in reversed(kinds) if kind.__bases__[0] is errors.CorrigendaError}
    rows = ["| code | |", "|---|---|", "| 0 | Done. |", "| 1 | Unexpected: please report it. |"]
    for code in sorted(set(first) - {1}):
        rows.append(f"| {code} | {(inspect.getdoc(first[code]) or '').splitlines()[0]} |")
    return "\n".join(rows) + "\n"


TABLES: dict[str, Callable[[], str]] = {
    "columns": documentation_table,
    "commands": commands,
    "exit codes": exit_codes,
}


def rewritten(text: str) -> str:
    """The page with every table as the code has it now."""
    for name, table in TABLES.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert block.search(text), f"the README has no table `{name}`"
        text = block.sub(lambda found, table=table: f"{found[1]}{table()}{found[2]}", text)  # type: ignore[misc]
    return text


def main() -> None:
    text = README.read_text(encoding="utf-8")
    if rewritten(text) != text and "--check" in sys.argv:
        sys.exit("the README's tables are not what the code says: run `make docs`")
    README.write_text(rewritten(text), encoding="utf-8")


if __name__ == "__main__":
    main()
