"""Rows of the quality table: printed as Markdown, kept as JSON lines for the page that shows them all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

HEAD = (
    "| facts | solve | ES | PS | NS drop, points | perplexity | said | change | seconds |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True)
class Solve:
    """One joint solve.

    automatic  whether its weight was found or given
    rounds     of pressing; `short` facts got less than they need all the same
    change     for other text, as a share of what the layer adds
    """

    solver: str
    automatic: bool
    weight: float
    rounds: int
    short: int
    change: float
    seconds: float

    def __str__(self) -> str:
        name = "" if self.solver == "memit" else f"{self.solver}, "
        found = "automatic" if self.automatic else "weight"
        pressed = f"pressed {self.rounds}×, " if self.rounds else ""
        weight = f"{self.weight:,.0f}" if self.weight >= 10 else f"{self.weight:.2g}"
        return f"{name}{found} {weight}, {pressed}{self.short:,} short"


@dataclass(frozen=True, slots=True)
class Marks:
    """How a model answers after an edit, and how that differs from before.

    es, ps   shares of rewrites and of paraphrases after which the new answer is likelier
    ns_drop  by so many points fewer neighbours find the old answer likelier than before
    rise     of perplexity, in per cent
    said     share of rewrites that greedy decoding says
    """

    es: float
    ps: float
    ns_drop: float
    rise: float
    said: float

    @classmethod
    def between(cls, before: dict[str, float], after: dict[str, float]) -> Marks:
        """From the figures of the base and of the edited model (`quality.figures`)."""
        drop = 100 * (before["locality"] - after["locality"])
        rise = 100 * (after["perplexity"] / before["perplexity"] - 1)
        return cls(after["rewrite"], after["paraphrase"], drop, rise, after["said"])

    def __str__(self) -> str:
        return f"{self.es:.4f} | {self.ps:.4f} | {self.ns_drop:.2f} | {self.rise:+.2f} % | {self.said:.3f}"


@dataclass(frozen=True, slots=True)
class Row:
    """What one solve made of a model.

    given    editing settings that are not the default, as they stand on the command line
    data     `counterfact`, or the name of a file
    marked   so many of the facts were asked, with `neighbours` each
    """

    model: str
    layer: int
    half: str
    background: str
    given: tuple[str, ...]
    facts: int
    marked: int
    neighbours: int
    solve: Solve
    marks: Marks
    data: str = "counterfact"

    def __str__(self) -> str:
        """A line under HEAD."""
        numbers = f"{self.solve.change:.3f} | {self.solve.seconds:.2f}"
        return f"| {self.facts:,} | {self.told} | {self.marks} | {numbers} |"

    @property
    def told(self) -> str:
        """How it was solved."""
        named = ("solver", "covariance_weight")  # which the solve itself tells
        return ", ".join((str(self.solve), *(given for given in self.given if not given.startswith(named))))

    @property
    def place(self) -> tuple[object, ...]:
        """What was measured; a later row of the same place is the same again."""
        where = (self.data, self.model, self.layer, self.half, self.background, self.given)
        how = (self.solve.solver, self.solve.automatic, self.solve.rounds > 0)
        weight = None if self.solve.automatic else self.solve.weight
        return (*where, self.facts, self.marked, self.neighbours, *how, weight)


def keep(row: Row, path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def kept(path: Path) -> list[Row]:
    """The last row of each place, in the order of facts, settings and weights."""
    found: dict[tuple[object, ...], Row] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        solve, marks = Solve(**values.pop("solve")), Marks(**values.pop("marks"))
        row = Row(**values | {"given": tuple(values["given"])}, solve=solve, marks=marks)
        found[row.place] = row
    return sorted(found.values(), key=_order)


def _order(row: Row) -> tuple[object, ...]:
    solve = row.solve
    return (row.facts, solve.solver != "memit", row.given, not solve.automatic, -solve.rounds, solve.weight)
