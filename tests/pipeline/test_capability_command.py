"""A command of the fleet's own judges the candidate: its numbers may fall by so much and no more."""

from __future__ import annotations

import math
import sys

import pytest

from corrigenda.errors import SetupError
from corrigenda.pipeline.capability import compared, numbers

PYTHON = sys.executable


def test_a_command_reads_the_directory_and_prints_numbers(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    script = (
        "import sys,json,os; print('working'); print(json.dumps({'files': len(os.listdir(sys.argv[1]))}))"
    )
    assert numbers(f'{PYTHON} -c "{script}"', tmp_path, 30) == {"files": 1.0}
    assert numbers(f'{PYTHON} -c "{script}" {{directory}}', tmp_path, 30) == {"files": 1.0}


def test_nested_figures_have_dotted_names_and_standard_errors_are_none(tmp_path):
    """As lm-evaluation-harness writes them."""
    text = '{"results": {"lambada": {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "lambada"}}}'
    (tmp_path / "say.py").write_text(f"print({text!r})")
    assert numbers(f"{PYTHON} {tmp_path / 'say.py'}", tmp_path, 30) == {"results.lambada.acc,none": 0.5}


@pytest.mark.parametrize(
    "command", ["no-such-program", f'{PYTHON} -c "raise SystemExit(3)"', f"{PYTHON} -c 0"]
)
def test_a_command_that_gives_no_figures_is_an_error_that_says_which(command, tmp_path):
    with pytest.raises(SetupError, match="capability command") as fault:
        numbers(command, tmp_path, 30)
    assert fault.value.facts["command"] == command


def test_a_command_that_hangs_is_stopped(tmp_path):
    with pytest.raises(SetupError):
        numbers(f'{PYTHON} -c "import time; time.sleep(60)"', tmp_path, 0.5)


@pytest.mark.parametrize(
    "after, passed", [({"acc": 0.49}, True), ({"acc": 0.9}, True), ({"acc": 0.4}, False), ({}, False)]
)
def test_no_number_may_fall_by_more_than_is_allowed(after, passed):
    (gate,) = compared({"acc": 0.5}, after, 0.01)
    assert (gate.gate, gate.passed) == ("capability: acc", passed)
    assert math.isnan(gate.figure) == (not after)
