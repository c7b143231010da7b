"""The page that shows Python users around is typed word for word, and says what it shows."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs/start/from-python.md").read_text(encoding="utf-8")
# What a model of twelve names needs of settings: a layer, little text, and gates that mind its size.
SMALL = {
    "DEFAULTS__DEVICE": "cpu",
    "DEFAULTS__GATES": '{"max_locality_drop": 0.5, "max_perplexity_rise": 5, "max_drift_nats": 5}',
    "DEFAULTS__LOCALIZATION__LAYER": "0",
    "DEFAULTS__EDITING": '{"covariance_weight": 1.0, "targets": {"contexts": 0}}',
    "DEFAULTS__COVARIANCE": '{"tokens": 1000, "length": 25}',
    "DEFAULTS__DRIFT": '{"tokens": 1000, "length": 25}',
}


def blocks() -> list[tuple[str, str]]:
    """Each block of code with the output that the page shows below it."""
    found = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", PAGE, re.DOTALL)
    assert len(found) == PAGE.count("```python")
    return found


def test_the_page_does_what_it_says(
    tmp_path: Path, trained_gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CORRIGENDA_CACHE", str(tmp_path / "cache"))
    for name, value in SMALL.items():
        monkeypatch.setenv(f"CORRIGENDA_{name}", value)
    (config,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "fleet.toml").write_text(config, encoding="utf-8")
    (tmp_path / "my-model").symlink_to(trained_gpt2)
    space: dict[str, Any] = {}
    for code, shown in blocks():
        said = io.StringIO()
        with redirect_stdout(said):
            exec(compile(code, "from-python.md", "exec"), space)
        assert said.getvalue() == shown, code
    assert "<title>" in (tmp_path / "homes.html").read_text(encoding="utf-8")
