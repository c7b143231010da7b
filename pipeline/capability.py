"""The fleet's own test of what a model can do: a command, run on the base's directory and on the candidate's.

Whatever evaluates a Hugging Face directory will do (lm-evaluation-harness, say). It prints one JSON object;
every number in it is a figure of which more is better, and none may fall by more than the fleet allows.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from corrigenda.errors import SetupError
from corrigenda.facts import digest_of
from corrigenda.pipeline.base import Base
from corrigenda.validation.gates import Gate

PLACE = "{directory}"
_SHOWN = 300  # characters of what a command said that failed


def command_gates(base: Base, place: Path) -> tuple[Gate, ...]:
    """A gate for every number of the fleet's command; none where there is no command.

    place   the candidate's directory; the base, which lies beside it, is asked once
    """
    settings = base.settings.capability
    if settings.command is None:
        return ()
    key = digest_of(["capability", base.identity, settings.command])
    known = base.cache.lookup("capability", key)
    if known is None:
        before = numbers(settings.command, base.night.workplace / "base", settings.timeout)
        base.cache.remember("capability", key, json.dumps(before).encode())
    else:
        before = json.loads(known)
    return compared(before, numbers(settings.command, place, settings.timeout), settings.max_drop)


def compared(before: Mapping[str, float], after: Mapping[str, float], max_drop: float) -> tuple[Gate, ...]:
    """What fell, number by number; one that the candidate no longer has fails."""
    found = []
    for name, was in sorted(before.items()):
        drop = was - after.get(name, math.nan)
        # A drop that is no number is no drop within bounds.
        found.append(Gate(f"capability: {name}", drop, max_drop, round(drop, 12) <= max_drop))
    return tuple(found)


def numbers(command: str, directory: Path, timeout: float) -> dict[str, float]:
    """The numbers that `command` prints of the model in `directory`.

    The directory stands in the place of `{directory}`, else behind all words. Raises SetupError when the
    command fails, takes longer than `timeout` seconds or says no number.
    """
    words = shlex.split(command)
    given = [word.replace(PLACE, str(directory)) for word in words]
    if given == words:
        given.append(str(directory))
    try:
        done = subprocess.run(given, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise _failed(command, str(fault)) from None
    if done.returncode:
        raise _failed(command, (done.stderr or done.stdout).strip()[-_SHOWN:])
    found = dict(_flat(_last_object(done.stdout)))
    if not found:
        raise _failed(command, f"no JSON object with numbers on stdout: {done.stdout.strip()[-_SHOWN:]!r}")
    return found


def _failed(command: str, why: str) -> SetupError:
    return SetupError(
        "the capability command gave no figures",
        remedy="Let it print one JSON object of numbers, or leave `capability.command` out",
        command=command,
        said=why,
    )


def _last_object(text: str) -> Any:
    """The JSON object that ends the output; progress may stand before it."""
    lines = text.splitlines(keepends=True)
    for first, line in enumerate(lines):
        if line.lstrip().startswith("{"):
            try:
                return json.loads("".join(lines[first:]))
            except ValueError:
                continue
    return {}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Numbers under dotted names; a standard error is no figure of which more is better."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool) and "stderr" not in name:
        yield name, float(value)
