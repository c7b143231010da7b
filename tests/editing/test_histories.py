"""Whatever was learned and taken back on the way: the bytes are those of the corrections that remain."""

from __future__ import annotations

import os
from random import Random

import torch
from tiny_models import CITIES, PEOPLE, tiny

from corrigenda.editing.background.covariance import key_covariance
from corrigenda.editing.solve.joint import solve_balanced
from corrigenda.editing.solve.weight import OtherText
from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.engine import find_targets
from corrigenda.editing.targets.target import Target
from corrigenda.facts import EditRequest
from corrigenda.settings import SolveSettings, TargetSettings

# CORRIGENDA_LONG=1 tries a thousand.
HISTORIES = 1_000 if os.environ.get("CORRIGENDA_LONG") else 6
STEPS = 10
TARGETS = TargetSettings(contexts=1, warm_steps=2, steps=2, late_steps=1)
SOLVE = SolveSettings(covariance_weight=3.0, most_change=10.0)
CONTEXTS = ("", "It is known. ", "People say so. ")


class Editor:
    """A tiny model with its band and background, and what was learned so far."""

    def __init__(self) -> None:
        self.model = tiny("llama", layers=7, dtype=torch.float32, inner=64)
        self.band = Band((1, 2, 3), (0.8, 1.0, 1.3))
        text = torch.randint(2, 400, (16, 24), generator=torch.Generator().manual_seed(0))
        moments = key_covariance(self.model, self.band.layers, text)
        scaled = zip(self.band.layers, self.band.scales, strict=True)
        self.others = [
            OtherText.of(self.model.linear_map(layer), moments[layer], scale) for layer, scale in scaled
        ]

    def edit(self, active: list[EditRequest], cache: dict[str, Target]) -> bytes:
        """The updates' bytes; `cache` gains what had to be computed."""
        found = find_targets(self.model, self.band, active, CONTEXTS, TARGETS, norm_cap=0.5, cached=cache)
        cache |= found.fresh
        if not found.known:
            return b""
        solved = solve_balanced(found.known, self.others, SOLVE)
        return b"".join(update.contiguous().numpy().tobytes() for update in solved.updates)


def test_a_retract_gives_the_bytes_of_never_learned() -> None:
    editor = Editor()
    never: dict[frozenset[str], bytes] = {}
    for seed in range(HISTORIES):
        draw, cache = Random(seed), dict[str, Target]()
        active: dict[str, EditRequest] = {}
        for _ in range(STEPS):
            person = draw.choice(PEOPLE[:4])
            known = active.pop(person, None)
            if known is None or draw.random() < 0.4:
                active[person] = EditRequest(person, "{} was born in", draw.choice(CITIES[:2]))
            if draw.random() < 0.3:
                editor.edit(list(active.values()), cache)
        of_the_set = frozenset(request.digest for request in active.values())
        if of_the_set not in never:
            alone = sorted(active.values(), key=lambda request: request.digest)
            never[of_the_set] = editor.edit(alone, {})
        assert editor.edit(list(active.values()), cache) == never[of_the_set], seed
    assert len(never) > 3
