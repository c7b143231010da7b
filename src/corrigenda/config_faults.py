"""Faults of a configuration in words: where each is, under the model's name, and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def told(faults: ValidationError, root: type[BaseModel], models: Sequence[str]) -> list[str]:
    """One line a fault, in the order of the file.

    root     the settings that were to be read: a misspelt key is compared with the names it has there
    models   names of the models as the file gives them, by which `models.1` is called
    """
    return [_told(error["loc"], error, root, models) for error in faults.errors()]


def of_model(faults: ValidationError, name: str, section: str, kind: type[BaseModel]) -> list[str]:
    """The faults of one model's own section."""
    return [
        f"model {name!r}: {'.'.join(map(str, (section, *error['loc'])))}: {_said(error, error['loc'], kind)}"
        for error in faults.errors()
    ]


def _told(
    place: tuple[int | str, ...], error: Mapping[str, Any], root: type[BaseModel], models: Sequence[str]
) -> str:
    said = _said(error, place, root)
    if place[:1] == ("models",) and len(place) > 1 and isinstance(place[1], int) and place[1] < len(models):
        return f"model {models[place[1]]!r}: {'.'.join(map(str, place[2:])) or 'section'}: {said}"
    return f"{'.'.join(map(str, place))}: {said}" if place else said


def _said(error: Mapping[str, Any], place: tuple[int | str, ...], root: type[BaseModel]) -> str:
    if error["type"] != "extra_forbidden":
        return str(error["msg"]).removeprefix("Value error, ")
    kind = _at(root, place[:-1])
    known = list(getattr(kind, "model_fields", {}))
    if below := next(_below(kind, str(place[-1])), None):
        return f"there is no such setting here; did you mean `{below}`?"
    near = get_close_matches(str(place[-1]), known, n=1, cutoff=0.6)
    if near:
        return f"there is no such setting; did you mean `{near[0]}`?"
    return (
        f"there is no such setting; there are {', '.join(sorted(known))}"
        if known
        else "there is no such setting"
    )


def _below(kind: Any, name: str) -> Iterator[str]:
    """Where a setting of this name stands in the sections below."""
    for section, field in getattr(kind, "model_fields", {}).items():
        inner = _section(field.annotation)
        if name in getattr(inner, "model_fields", {}):
            yield f"{section}.{name}"
        yield from (f"{section}.{path}" for path in _below(inner, name))


def _at(kind: Any, place: Iterable[int | str]) -> Any:
    """The section at a place below `kind`; None where there is none."""
    for step in place:
        if isinstance(step, int):
            continue
        fields = getattr(kind, "model_fields", {})
        kind = _section(fields[step].annotation) if step in fields else None
    return kind


def _section(annotation: Any) -> Any:
    """The settings class within an annotation such as `tuple[X, ...]` or `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section(part))), None)
