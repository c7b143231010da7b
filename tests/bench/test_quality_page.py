"""The page on what edits cost: rows come back as they were kept, and the page says what was missed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.quality_page import AIMS, best, curve_of, night_of, write
from bench.quality_rows import Marks, Row, Solve, keep, kept

NIGHT = Row(
    model="demo:smollm2-135m",
    layer=4,
    half="report",
    background="1000 tokens of wikitext",
    given=(),
    facts=100,
    marked=100,
    neighbours=10,
    solve=Solve("memit", True, 225.0, 0, 30, 0.118, 0.76),
    marks=Marks(0.99, 0.88, 0.1, 1.66, 0.76),
)


def fixed(row: Row, weight: float, **marks: float) -> Row:
    solve = replace(row.solve, automatic=False, weight=weight)
    return replace(row, solve=solve, marks=replace(row.marks, **marks))


def test_rows_come_back_and_the_last_of_a_place_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    capped = replace(NIGHT, given=("norm_cap=0.5",))
    again = replace(NIGHT, solve=replace(NIGHT.solve, weight=230.0), marks=replace(NIGHT.marks, ps=0.885))
    heavy, light = fixed(NIGHT, 1000.0, ps=0.73), fixed(NIGHT, 100.0, ps=0.89)
    for row in (NIGHT, capped, heavy, light, again):
        keep(row, path)
    assert kept(path) == [again, light, heavy, capped]


def test_what_is_missed_is_named() -> None:
    aim = AIMS[100]
    assert aim.names_missed(NIGHT) == ["PS", "perplexity"]
    assert aim.names_missed(fixed(NIGHT, 10.0, ps=0.93, rise=1.5)) == []
    assert AIMS[1_000].names_missed(replace(NIGHT, solve=replace(NIGHT.solve, seconds=1.0))) == ["seconds"]


def test_the_nearest_rows_are_those_within_the_bounds() -> None:
    within, good, dear = (
        fixed(NIGHT, 300.0, ps=0.85, rise=1.4),
        fixed(NIGHT, 50.0, ps=0.94, rise=2.0),
        fixed(NIGHT, 10.0, ps=0.96, rise=4.0),
    )
    found = best(AIMS[100], [NIGHT, dear, good, within])
    assert list(found.values()) == [NIGHT, within, good]
    assert list(best(AIMS[100], [NIGHT, within]).values()) == [NIGHT, within, NIGHT]


def test_a_night_that_pressed_stands_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    pressed = replace(NIGHT, solve=replace(NIGHT.solve, rounds=2), marks=replace(NIGHT.marks, said=0.95))
    for row in (pressed, NIGHT):
        keep(row, path)
    assert night_of(kept(path)) == pressed


def test_the_page_shows_what_was_measured_and_no_more(tmp_path: Path) -> None:
    write([fixed(NIGHT, 300.0)], tmp_path)
    page = (tmp_path / "edit-quality-one-layer.md").read_text(encoding="utf-8")
    assert "| 100 | aim |" in page and "| 1,000 | aim |" not in page and "a night:" not in page


@pytest.mark.parametrize(
    ("row", "curve"),
    [
        (NIGHT, "default"),
        (replace(NIGHT, given=("norm_cap=0.5",)), "norm_cap=0.5"),
        (replace(NIGHT, given=('solver="emmet"',), solve=replace(NIGHT.solve, solver="emmet")), "emmet"),
        (replace(NIGHT, given=("most_change=100",), solve=replace(NIGHT.solve, rounds=4)), "pressed"),
    ],
)
def test_a_curve_is_all_but_the_weight(row: Row, curve: str) -> None:
    assert curve_of(row) == curve


def test_the_page_is_the_same_from_the_same_rows(tmp_path: Path) -> None:
    rows = [row for count in (100, 1_000, 2_000, 5_000) for row in (replace(NIGHT, facts=count),)]
    rows += [fixed(row, 300.0, rise=5.0) for row in rows]
    pages = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(rows, tmp_path / name)
        pages.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert pages[0] == pages[1] and set(pages[0]) == {
        "edit-quality-one-layer.md",
        "edit-quality-one-layer.svg",
    }
    page = pages[0]["edit-quality-one-layer.md"].decode()
    assert (
        "| 5,000 | automatic 225, 30 short | 0.9900 | 0.8800 | 0.10 | +1.66 % | 0.760 | 0.118 | 0.76 |"
        in page
    )
    assert (
        "| | a night: automatic 225, 30 short | 0.9900 | 0.8800 | 0.10 | +1.66 % | 0.76 | PS, perplexity |"
        in page
    )
