"""The benchmark of scoring runs, and would notice if the fast figures were other figures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def bench():
    path = Path(__file__).parents[2] / "bench" / "scoring.py"
    spec = importlib.util.spec_from_file_location("scoring", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_compares_like_with_like(bench, llama, capsys, monkeypatch):
    probes = bench.built_in_probes(6)
    assert bench.compare(llama, probes) > 0
    assert "ratio" in capsys.readouterr().out
    monkeypatch.setattr(bench, "score", lambda model, probes: bench.reference_score(model, probes[::-1]))
    with pytest.raises(AssertionError):
        bench.compare(llama, probes)


def test_memory_is_measured(bench, llama, capsys):
    bench.measure_memory(llama, 40)
    assert "peak" in capsys.readouterr().out
