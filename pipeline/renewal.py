"""The heavy part of a night's order: edit the base with the whole active set, prove it, stage it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from corrigenda.editing.localization.layer_scores import LayerScores
from corrigenda.pipeline.background import measure_background
from corrigenda.pipeline.base import Base, load_base
from corrigenda.pipeline.edit import Edit, edit
from corrigenda.pipeline.ingest import NightPlan
from corrigenda.pipeline.localize import localize_model
from corrigenda.pipeline.night import Night
from corrigenda.pipeline.publish import stage
from corrigenda.pipeline.runner import Runner
from corrigenda.pipeline.samples import samples_of, sent_out
from corrigenda.pipeline.validate import (
    Proof,
    gate_error,
    own_probes,
    quarantine,
    record,
    regressions,
    validate,
)
from corrigenda.storage.releases.manifests import Release


@dataclass(frozen=True, slots=True)
class Made:
    """A staged release, and what a person wants to know of how it came about.

    edits         how many targets were computed and cached, and how many corrections fell short
    regressions   corrections that passed in an earlier release and fail in this one
    samples       some corrections before and after; quarantined: who was sent out tonight, and why
    """

    release: Release
    layers: LayerScores
    edits: dict[str, int]
    regressions: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    quarantined: list[dict[str, Any]]


def prepare(night: Night, registered: Release, plan: NightPlan, run: Runner) -> Made:
    """A release with all that the plan's ledger asks for, on record and behind `canary`, not yet published.

    Raises GateError when no candidate passes.
    """
    base = run(load_base, night, registered)
    layers = run(localize_model, base)
    candidate, proof = prove(base, layers.pick, plan, run)
    release = run(stage, night, registered, plan, candidate, layers, proof)
    run(record, night, release, proof)
    worse = run(regressions, night, release, proof)
    edits = {
        "computed": candidate.computed,
        "cached": candidate.cached,
        "short": candidate.settings.get("short", 0),
    }
    samples = samples_of(proof.rows, plan.report.activated)
    return Made(release, layers, edits, worse, samples, sent_out(plan.ledger, candidate.ledger))


def prove(base: Base, layer: int, plan: NightPlan, run: Runner) -> tuple[Edit, Proof]:
    """Edit and validate; corrections that keep the candidate from passing are left out and it is solved
    again, a few rounds at most. Raises GateError when it never passes, CorrectionsError when the model's own
    probes cannot be read."""
    night = base.night
    own = run(own_probes, night)
    background = run(measure_background, base, layer)
    corrections = plan.ledger
    for _ in range(night.settings.gates.max_rounds + 1):
        candidate = run(edit, base, background, corrections)
        proof = run(validate, base, candidate, own)
        if proof.verdict.passed:
            return candidate, proof
        corrections = run(quarantine, base, background, candidate, proof)
    raise gate_error(night, proof, f"not even after {night.settings.gates.max_rounds} rounds of quarantine")
