"""The benchmark of growth runs, and a gc plan of few nights asks for little."""

from __future__ import annotations

from bench.growth import measure


def test_the_benchmark_of_growth_tells_what_readers_pay() -> None:
    [line] = measure([2], rows=3, rounds=1)
    assert (line["nights"], line["corrections"], line["parts"]) == (2, 6, 2)
    assert line["gc_requests"] < 60
    assert all(0 < line[command] < 60 for command in ("status", "log", "show"))
