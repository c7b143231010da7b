"""One model's night: what is new goes into the ledger, the base is edited once, proved, and published."""

from __future__ import annotations

from typing import Any

from prefect import flow

from corrigenda.editing.layer_scores import LayerScores
from corrigenda.models.loading import LanguageModel
from corrigenda.storage.manifests import Release
from corrigenda.tasks.background import measure_background
from corrigenda.tasks.edit import Edit, edit, load_base
from corrigenda.tasks.ingest import Plan, take_in, told
from corrigenda.tasks.localize import localize_task
from corrigenda.tasks.night import Night
from corrigenda.tasks.publish import asked_for, furnish_head, publish_release, stage, stage_books
from corrigenda.tasks.register import register
from corrigenda.tasks.validate import (
    Proof,
    gate_error,
    own_probes,
    quarantine,
    record,
    regressions,
    validate,
)


@flow(name="maintain-model", flow_run_name="{night}", validate_parameters=False, persist_result=False)
def maintain_model(night: Night) -> dict[str, Any]:
    """Bring one model up to date with its queue; returns what happened, JSON-able.

    Raises GateError when no candidate passes, LostRaceError when another run was first: either way nothing
    is published, and no queue file is consumed.
    """
    with night.lease():
        base = register(night)
        plan = take_in(night)
        if not needs_edit(night, plan):
            if not plan.new_files:
                return outcome(night, plan, "unchanged", furnish_head(night, plan))
            release = publish_release(night, plan, stage_books(night, base, plan))
            return outcome(night, plan, "published", release)
        model = load_base(night, base)
        layers = localize_task(night, base, model)
        candidate, proof = prove(night, base, model, layers, plan)
        release = stage(night, base, plan, candidate, layers, proof)
        record(night, release, proof)
        worse = regressions(night, release, proof)
        publish_release(night, plan, release)
        return outcome(night, plan, "published", release) | {
            "edits": {
                "computed": candidate.computed,
                "cached": candidate.cached,
                "short": candidate.settings.get("short", 0),
            },
            "layers": layers.to_json(),
            "regressions": worse,
        }


def prove(
    night: Night, base: Release, model: LanguageModel, layers: LayerScores, plan: Plan
) -> tuple[Edit, Proof]:
    """Edit and validate; corrections that keep the candidate from passing are left out and it is solved
    again, a few rounds at most. Raises GateError when it never passes, CorrectionsError when the model's own
    probes cannot be read."""
    own = own_probes(night)
    background = measure_background(night, base, model, layers.pick)
    corrections = plan.ledger
    for _ in range(night.settings.gates.max_rounds + 1):
        candidate = edit(night, base, model, layers.pick, background, corrections)
        proof = validate(night, base, model, candidate, own)
        if proof.verdict.passed:
            return candidate, proof
        corrections = quarantine(night, base, model, background, candidate, proof)
    raise gate_error(night, proof, f"not even after {night.settings.gates.max_rounds} rounds of quarantine")


def needs_edit(night: Night, plan: Plan) -> bool:
    """Whether the weights can differ from the head's: another active set, or other settings for it."""
    resettled = plan.head.layer is not None and plan.head.settings.get("asked") != asked_for(night)
    return plan.report.changed or (resettled and bool(plan.ledger.active))


def outcome(night: Night, plan: Plan, status: str, release: Release) -> dict[str, Any]:
    """What happened to the model, JSON-able."""
    return {
        "model": night.name,
        "status": status,
        "release": release.number,
        "layer": release.layer,
        "gates": dict(release.gates),
        "taken_in": told(plan),
        "counts": dict(release.counts),
    }
