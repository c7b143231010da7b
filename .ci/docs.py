"""Writes the reference pages' tables anew from the code that they describe.

    python .ci/docs.py            write them
    python .ci/docs.py --check    fail when they differ (a test does this)

A table stands between `<!-- NAME -->` and `<!-- end -->`, in whatever page has those marks.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import api_page
import pyarrow as pa
import typer
from pydantic import BaseModel

from corrigenda import errors
from corrigenda.cli.app import build_app
from corrigenda.config import FleetConfig
from corrigenda.errors import CorrigendaError
from corrigenda.storage.corrections.schemas import documentation_table
from corrigenda.validation import tables

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs/reference").glob("*.md")))


def commands() -> str:
    """Every command with the first sentence of its help, and its options."""
    group: Any = typer.main.get_command(build_app())
    return "\n".join(part for name in group.commands for part in _command(name, group.commands[name]))


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"### `corrigenda {name}`\n\n{_paragraphs(command.help or '')}\n"
    yield "| argument or option | |\n|---|---|"
    for parameter in command.params:
        shown = getattr(parameter, "help", None) or ""
        names = (
            parameter.opts
            if parameter.param_type_name == "option"
            else [parameter.metavar or parameter.name.upper()]
        )
        if "--help" not in names:
            yield f"| `{', '.join(names)}` | {shown.replace('|', chr(92) + '|')} |"
    yield ""


def _paragraphs(text: str) -> str:
    """Help as Markdown: examples, which are indented, as a block."""
    text = inspect.cleandoc(text).replace("\b", "")
    said, marker, examples = text.partition("Examples:")
    block = inspect.cleandoc(examples.strip("\n")) if marker else ""
    return said.strip() + (f"\n\n```\n{block}\n```" if block else "")


def exit_codes() -> str:
    """Every exit code with the errors that give it."""
    first = {kind.exit_code: kind for kind in reversed(_kinds()) if kind.__bases__[0] is CorrigendaError}
    rows = ["| code | |", "|---|---|", "| 0 | Done. |", "| 1 | Unexpected: please report it. |"]
    for code in sorted(set(first) - {1}):
        rows.append(f"| {code} | {_first_line(first[code])} |")
    return "\n".join(rows) + "\n"


def error_codes() -> str:
    """Every kind of error: the code that never changes, and what is meant."""
    rows = ["| code | error | exit code | may be tried again | |", "|---|---|---|---|---|"]
    for kind in sorted(_kinds(), key=lambda kind: (kind.exit_code, kind.code)):
        again = "yes" if kind.retryable else "no"
        rows.append(
            f"| `{kind.code}` | `{kind.__name__}` | {kind.exit_code} | {again} | {_first_line(kind)} |"
        )
    return "\n".join(rows) + "\n"


def _kinds() -> list[type[CorrigendaError]]:
    members = inspect.getmembers(errors, inspect.isclass)
    return [kind for _, kind in members if issubclass(kind, CorrigendaError)]


def _first_line(kind: type) -> str:
    return (inspect.getdoc(kind) or "").splitlines()[0]


def sql_columns() -> str:
    """The columns of every table that SQL sees, with their meaning."""
    return "\n".join(
        f"### `{name}`\n\n{_columns(schema)}"
        for name, schema in (("rows", tables.ROWS), ("verdicts", tables.VERDICTS), ("nights", tables.NIGHTS))
    )


def _columns(schema: pa.Schema) -> str:
    rows = ["| column | type | |", "|---|---|---|"]
    for column in schema:
        doc = (column.metadata or {}).get(b"doc", b"").decode()
        rows.append(f"| `{column.name}` | `{column.type}` | {doc} |")
    return "\n".join(rows) + "\n"


def settings() -> str:
    """Every setting of `fleet.toml`, section by section, with its default and meaning."""
    return "\n".join(_sections("", FleetConfig, None))


def _sections(path: str, kind: type[BaseModel], given: BaseModel | None) -> Iterator[str]:
    """A section with what it holds; `given` says the defaults where they are not the class's own."""
    below: list[tuple[str, type[BaseModel], BaseModel | None]] = []
    rows: list[str] = []
    for name, field in kind.model_fields.items():
        inner = list(_models(field.annotation))
        if inner and not field.exclude:
            held = getattr(given, name) if given else field.default
            below += [
                (f"{path}.{name}".lstrip("."), one, held if isinstance(held, one) else None) for one in inner
            ]
        elif not field.exclude:
            value = getattr(given, name) if given else field.default
            default = "required" if field.is_required() else f"`{json.dumps(value, default=str)}`"
            rows.append(f"| `{name}` | {_kind(field.annotation)} | {default} | {field.description or ''} |")
    if rows:
        meaning = " ".join((inspect.getdoc(kind) or "").split())
        yield f"### {f'`{path}`' if path else 'At the top'}\n\n{meaning}\n"
        yield "| setting | type | default | |\n|---|---|---|---|"
        yield "\n".join(rows) + "\n"
    for where, one, held in below:
        yield from _sections(where, one, held)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings classes within an annotation, `A | B` and `tuple[A, ...]` included."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _kind(annotation: Any) -> str:
    """A type in words of TOML."""
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    if annotation in names:
        return names[annotation]
    parts = [one for one in get_args(annotation) if one not in (type(None), Ellipsis)]
    if get_origin(annotation) is Literal:
        return " · ".join(f"`{one}`" for one in parts)
    if get_origin(annotation) in (tuple, list):
        return f"list of {_kind(parts[0])}"
    if get_origin(annotation) is dict:
        return "section"
    return " or ".join(dict.fromkeys(_kind(one) for one in parts)) or "text"


def schema() -> str:
    """The JSON schema of `fleet.toml`, by which editors complete and check it."""
    told = FleetConfig.model_json_schema()
    told["properties"].pop("root", None)
    return json.dumps(told, indent=1, sort_keys=True) + "\n"


SCHEMA = ROOT / "docs/reference/fleet.schema.json"
TABLES: dict[str, Callable[[], str]] = {
    "api": api_page.names_and_docstrings,
    "columns": documentation_table,
    "commands": commands,
    "error codes": error_codes,
    "exit codes": exit_codes,
    "settings": settings,
    "sql columns": sql_columns,
}


def rewritten(text: str) -> str:
    """A page with every table as the code has it now."""

    def table(found: re.Match[str]) -> str:
        assert found[1] in TABLES, f"no table is called `{found[1]}`"
        return f"<!-- {found[1]} -->\n{TABLES[found[1]]()}<!-- end -->"

    return re.sub(r"<!-- ((?!end )[a-z ]+) -->\n(?:(?!<!-- ).)*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if rewritten(text) != text and "--check" in sys.argv:
            sys.exit(f"the tables of {page.relative_to(ROOT)} are not what the code says: run `make docs`")
        page.write_text(rewritten(text), encoding="utf-8")
    if "--check" not in sys.argv:
        SCHEMA.write_text(schema(), encoding="utf-8")
    elif SCHEMA.read_text(encoding="utf-8") != schema():
        sys.exit("the schema of fleet.toml is not what the code says: run `make docs`")


if __name__ == "__main__":
    main()
