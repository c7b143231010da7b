"""SQL, one statement a file, with named parameters: here every figure of a gate or a report is made."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def sql(name: str) -> str:
    """The statement in `name`.sql."""
    return (resources.files(__package__) / f"{name}.sql").read_text(encoding="utf-8")


def names() -> list[str]:
    """Of all statements there are."""
    found = resources.files(__package__).iterdir()
    return sorted(path.name.removesuffix(".sql") for path in found if path.name.endswith(".sql"))
