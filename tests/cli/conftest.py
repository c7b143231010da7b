"""The command line is tested over stores that the tests of storage make."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "storage"))


@pytest.fixture(autouse=True)
def no_configuration_from_before() -> Iterator[None]:
    """`--config` before a command is handed on in the environment: here to no other test."""
    before = os.environ.pop("CORRIGENDA_CONFIG", None)
    yield
    os.environ.pop("CORRIGENDA_CONFIG", None)
    if before is not None:
        os.environ["CORRIGENDA_CONFIG"] = before
