"""Leave-out re-solves: what an edit would do without some corrections, from cached targets.

Cheap, because nothing is optimised and nothing is stored: one solve, the update laid on the live model's
weight for the length of a block, and only the probes asked that broke.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property

import pyarrow as pa
from torch import Tensor

from corrigenda.config import Gates
from corrigenda.editing.solve.joint import solve_balanced
from corrigenda.editing.solve.weight import OtherText
from corrigenda.pipeline.background import Background
from corrigenda.pipeline.base import Base
from corrigenda.pipeline.edit import Edit, cached_targets, other_text, targets
from corrigenda.storage.corrections import ledger
from corrigenda.validation import gates, rows, scoring
from corrigenda.validation.drift import as_base, drift
from corrigenda.validation.gates import OF_PROBES, Gate
from corrigenda.validation.leave_out import Damage
from corrigenda.validation.probes import Probe
from corrigenda.validation.tables import SCORES

_OF_TEXT = ("perplexity_rise", "drift_nats")


class Trials:
    """Edits that leave some of a candidate's corrections out, and what each does.

    told   what is worth keeping of each probe that broke, by its name
    """

    def __init__(
        self,
        base: Base,
        background: Background,
        candidate: Edit,
        scored: pa.Table,
        short: Sequence[Gate],
    ) -> None:
        self.base, self.background, self.candidate = base, background, candidate
        self.short = [gate for gate in short if gate.gate in gates.DAMAGE]
        kinds = [OF_PROBES[gate.gate] for gate in self.short if gate.gate in OF_PROBES]
        self.probes = [Probe(**row) for row in gates.broken(scored, kinds)]
        self.told = {p.probe_id: {"prompt": p.prompt, "expected": p.expected} for p in self.probes}
        self._asked = Counter(scored["kind"].to_pylist())
        self._cached = cached_targets(base, background)
        layers = background.band.layers
        self._original = {layer: base.model.weight(layer).detach().clone() for layer in layers}

    def damage(self, left_out: frozenset[str], advance: Callable[[int], None]) -> Damage:
        """What the edit does without these corrections; tells `advance` of one trial more."""
        with self.base.model.trial(self._updates(left_out)):
            broken = self._broken()
            figures = self._of_text()
        for gate in self.short:
            if gate.gate in OF_PROBES and gate.figure is not None:
                kind = OF_PROBES[gate.gate]
                mended = sum(p.kind == kind and p.probe_id not in broken for p in self.probes)
                figures[gate.gate] = gate.figure - mended / self._asked[kind]
        advance(1)
        return Damage(figures, broken)

    def _updates(self, left_out: frozenset[str]) -> dict[int, Tensor]:
        """What the next candidate would add to the weights: the whole solve, from targets that are known."""
        kept = ledger.quarantine(self.candidate.ledger, left_out, "trial")
        cached = self._cached
        found = targets(self.base, self.background, kept, cached)
        cached |= found.fresh  # a group that lost a member has another target
        if not found.known:
            return {}
        updates = solve_balanced(found.known, self._others, self.base.settings.editing).updates
        return dict(zip(self.background.band.layers, updates, strict=True))

    @cached_property
    def _others(self) -> list[OtherText]:
        """What other text asks of the pristine maps, the same for all trials; read outside of any."""
        return other_text(self.base, self.background)

    def _broken(self) -> frozenset[str]:
        scores = scoring.score(self.base.model, self.probes)
        judged = _judged(self.probes, scores)
        passed = zip(judged["probe_id"].to_pylist(), judged["pass_after"].to_pylist(), strict=True)
        return frozenset(name for name, passes in passed if not passes)

    @cached_property
    def _text(self) -> list[list[int]]:
        """The held-out text: read once for all trials, and not where no gate asks for it."""
        text = self.base.text(self.base.settings.drift, "held-out text")
        rows_of_tokens: list[list[int]] = text.tolist()
        return rows_of_tokens

    def _of_text(self) -> dict[str, float]:
        wanted = [gate.gate for gate in self.short if gate.gate in _OF_TEXT]
        if not wanted:
            return {}
        as_it_was = as_base(self.base.model, self._original)
        drifted = drift(self.base.model, self._text, as_it_was)
        figures = gates.verdict(_judged((), SCORES.empty_table(), drifted), Gates()).figures
        return {name: float(figures[name] or 0.0) for name in wanted}


def _judged(probes: Sequence[Probe], scores: pa.Table, drifted: pa.Table | None = None) -> pa.Table:
    now = datetime.now(UTC)
    return rows.judge(probes, scores, scores, drifted, run_id="trial", model="", scored_at=now)
