"""The Python API as Markdown: every public name with its signature and its docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import corrigenda


def names_and_docstrings() -> str:
    """An index, and an entry for each name that `import corrigenda` offers."""
    names = [name for name in corrigenda.public_names() if name != "errors"]
    index = ", ".join(f"[{name}](#{name.lower()})" for name in names)
    return "\n".join([index, "", *(line for name in names for line in _entry(name))])


def _entry(name: str) -> Iterator[str]:
    thing = getattr(corrigenda, name)
    yield f"## {name}"
    yield ""
    if inspect.isclass(thing):
        yield from _described(thing)
        yield from _fields(thing)
        for method, value in _members(thing):
            yield f"### {name}.{method}"
            yield ""
            if callable(value):
                yield from _signature(f"{name}.{method}", value)
            yield from _described(value)
    else:
        yield from _signature(name, thing)
        yield from _described(thing)


def _fields(thing: type) -> Iterator[str]:
    if is_dataclass(thing):
        yield from ("```python", *(f"{one.name}: {one.type}" for one in fields(thing)), "```", "")


def _members(thing: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties, in the order of the code; fields are in the class's own text."""
    for name, raw in vars(thing).items():
        value = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
            yield name, value


def _signature(name: str, function: Callable[..., Any]) -> Iterator[str]:
    """As it is written, one parameter a line where it is long."""
    found = inspect.signature(function)
    own = [p for p in found.parameters.values() if p.name not in ("self", "cls")]
    text = str(found.replace(parameters=own)).replace("values.", "")
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    text = re.sub(r"<function (\w+) at 0x\w+>|<built-in function (\w+)>", r"warnings.\1\2", text)
    text = text.replace("datetime.timedelta(days=7)", "timedelta(days=7)")
    if len(name + text) > 90:
        inner, _, result = text[1:].rpartition(") -> ")
        parts = re.split(r", (?=[\w*]+(?::|,|$))", inner)
        text = "(\n" + "".join(f"    {part},\n" for part in parts) + f") -> {result}"
    yield from ("```python", f"{name}{text}", "```", "")


def _described(thing: Any) -> Iterator[str]:
    """The docstring as Markdown: aligned descriptions of parameters become a list."""
    for block in (inspect.getdoc(thing) or "").split("\n\n"):
        if ">>>" in block:
            lines = (re.sub(r"\s*# doctest.*", "", line).removeprefix(">>> ") for line in block.splitlines())
            yield from ("```python", *lines, "```", "")
        elif re.match(r"[\w, ]+\S {2,}\S", block):
            yield from (*_list(block), "")
        else:
            yield from (block, "")


def _list(block: str) -> Iterator[str]:
    entries: list[list[str]] = []
    for line in block.splitlines():
        told = re.match(r"([a-z_][\w, ]*?) {2,}(\S.*)", line)
        if told:
            names = ", ".join(f"`{name}`" for name in told[1].split(", "))
            entries.append([f"- {names}: {told[2]}"])
        else:
            entries[-1].append(f"  {line.strip()}")
    for entry in entries:
        yield from entry
