"""Proving a candidate: scored as it is materialised from the store, against the base's cached scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from corrigenda.editing.solve import apply
from corrigenda.errors import GateError
from corrigenda.models.language_model import LanguageModel
from corrigenda.pipeline.background import Background
from corrigenda.pipeline.base import Base
from corrigenda.pipeline.capability import command_gates
from corrigenda.pipeline.edit import Edit
from corrigenda.pipeline.leave_out_trials import Trials
from corrigenda.pipeline.night import Night
from corrigenda.pipeline.progress import bar, tell
from corrigenda.storage.corrections import ledger
from corrigenda.storage.corrections.ledger import Ledger
from corrigenda.storage.corrections.proxy_facts import read_proxy_facts
from corrigenda.storage.delivery import pull
from corrigenda.storage.objects.blobs import BlobRef
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases import history, publish, safetensors
from corrigenda.storage.releases.manifests import Release
from corrigenda.validation import base_scores, gates, leave_out, results, rows, scoring
from corrigenda.validation.drift import as_base, drift
from corrigenda.validation.encoding import has_chat
from corrigenda.validation.gates import Culprit, Verdict
from corrigenda.validation.probes import Probe, built_in_capability, probes_of, read_fixed


@dataclass(frozen=True, slots=True)
class Proof:
    """What validation found of a candidate.

    files   the very blobs that were tested, by path
    rows    one per probe (validation.tables.ROWS)
    """

    files: Mapping[str, BlobRef]
    rows: pa.Table
    verdict: Verdict


def own_probes(night: Night) -> tuple[Probe, ...]:
    """The probes that the fleet's configuration gives this model, and those of its capability.

    Raises CorrectionsError.
    """
    path = night.entry.probes
    own = () if path is None else read_fixed(_beside_the_fleet(night, path))
    items = night.settings.capability.items
    if items == "none":
        return own
    if items == "built-in":
        return (*own, *built_in_capability())
    return (*own, *read_fixed(_beside_the_fleet(night, items), "capability"))


def _beside_the_fleet(night: Night, path: str) -> Path:
    return night.fleet.config.root / Path(path).expanduser()


def validate(base: Base, candidate: Edit, own: tuple[Probe, ...]) -> Proof:
    """Store the candidate's blobs, load them as a consumer would, and score every probe.

    own   the model's own probes, which are asked beside those of the corrections
    """
    night = base.night
    replaced = {base.model.weight_name(layer): tensor for layer, tensor in candidate.tensors.items()}
    files = publish.replaced_files(night.store, base.release, replaced)
    place = night.workplace / "candidate"
    pull.materialise(night.store, replace(base.release, files=files), place, night.blob_cache)
    edited = _as_a_consumer_has_it(base.model, place, candidate.tensors)
    scored = _score(base, edited, candidate, own)
    found = gates.verdict(scored, night.settings.gates)
    more = command_gates(base, place)
    return Proof(files, scored, replace(found, gates=(*found.gates, *more)))


def _as_a_consumer_has_it(model: LanguageModel, place: Path, layers: Iterable[int]) -> LanguageModel:
    """What was materialised, beside the base: edited tensors are read from its files, all others, which are
    the base's to the byte, are held once."""
    found = safetensors.read_checkpoint(place)
    parts = {layer: found[safetensors.resolve(found, model.weight_name(layer))] for layer in layers}
    weights = {n: apply.tensor_of(b"".join(p.chunks()), p.dtype, p.shape) for n, p in parts.items()}
    return model.beside(weights)


def _score(base: Base, edited: LanguageModel, candidate: Edit, own: tuple[Probe, ...]) -> pa.Table:
    night = base.night
    asked = probes_of(
        candidate.ledger.active,
        pool=read_proxy_facts(),
        fixed=own,
        chat=has_chat(base.model.tokenizer),
        system=night.entry.system_prompt,
    )
    scope = base_scores.scope(**base.identity)
    with bar("probes, base", len(asked)) as advance:
        known = night.cache.lookup_packs("scores", scope)
        before = base_scores.score_base(base.model, asked, known, progress=advance)
    if before.fresh:
        night.cache.remember_pack("scores", scope, before.fresh)
    with bar("probes, candidate", len(asked)) as advance:
        after = scoring.score(edited, before.probes, progress=advance)
    return rows.judge(
        before.probes,
        before.scores,
        after,
        _drift(base, edited, candidate.tensors),
        run_id=night.fleet.run_id,
        model=night.name,
        scored_at=datetime.now(UTC),
        release=publish.next_number(night.store, night.name),
    )


def _drift(base: Base, edited: LanguageModel, layers: Iterable[int]) -> pa.Table:
    text = base.text(base.settings.drift, "held-out text")
    originals = {layer: base.model.weight(layer) for layer in layers}
    with bar("drift", len(text)) as advance:
        return drift(edited, text.tolist(), as_base(edited, originals), progress=advance)


def quarantine(base: Base, background: Background, candidate: Edit, proof: Proof) -> Ledger:
    """Send the corrections that keep the candidate from passing out of the active set, with the evidence.

    The rows name suspects; of those that are said to do damage, only such go as leave-out re-solves convict.
    Raises GateError when nobody can be named: leaving corrections out would not help.
    """
    night = base.night
    active = {correction.correction_id for correction in candidate.ledger.active}
    named = [c for c in gates.culprits(proof.rows, night.settings.gates) if c.correction_id in active]
    if any(culprit.gate in gates.DAMAGE for culprit in named):
        sent_out = _convicted(base, background, candidate, proof, named)
    else:
        sent_out = {c.correction_id: (c.reason, asdict(c)) for c in named if c.enough}
    if not sent_out:
        raise gate_error(night, proof, "and no correction can be named as the cause")
    if sent_out.keys() == active:
        raise gate_error(night, proof, "and nothing would be left of it without those that cause this")
    corrections = candidate.ledger
    for name, (reason, evidence) in sorted(sent_out.items()):
        corrections = ledger.quarantine(corrections, [name], reason, evidence)
    return corrections


def _convicted(
    base: Base, background: Background, candidate: Edit, proof: Proof, named: Sequence[Culprit]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Reason and evidence of those without whom the damage is gone, by correction id."""
    short = [gate for gate in proof.verdict.short if gate.gate in gates.DAMAGE]
    tried = leave_out.suspects(named)
    trials = Trials(base, background, candidate, proof.rows, short)
    with bar("leave-out solves", len(tried) + 2) as advance:
        found = leave_out.convict(
            tried,
            lambda left_out: trials.damage(left_out, advance),
            {gate.gate: gate.threshold for gate in short},
            len(candidate.ledger.active),
        )
    return {c.culprit.correction_id: (c.reason, c.evidence(trials.told)) for c in found}


def gate_error(night: Night, proof: Proof, why: str) -> GateError:
    """The evidence goes on record, then the error says which gates are short."""
    record_evidence(night.store, proof)
    short = {gate.gate: (gate.figure, gate.threshold) for gate in proof.verdict.short}
    return GateError(
        f"the candidate did not pass its gates, {why}; nothing was published and the old release stands",
        remedy="See `corrigenda results gates`; mend or retract corrections, or change the gates",
        model=night.name,
        **short,
    )


def record_evidence(store: ObjectStore, proof: Proof) -> None:
    """Keep the rows of a candidate that was not published."""
    if proof.rows.num_rows:
        results.append(store, rows.unpublished(proof.rows), proof.verdict)


def record(night: Night, release: Release, proof: Proof) -> None:
    """Keep the rows of the release that is about to become visible."""
    if release.files != dict(proof.files):
        raise GateError(
            "what is staged is not what was tested",
            remedy="Run again; if it happens twice, run `corrigenda doctor`",
            model=night.name,
            release=release.number,
        )
    if proof.rows.num_rows:
        results.append(night.store, proof.rows, proof.verdict)


def regressions(night: Night, release: Release, proof: Proof) -> list[dict[str, Any]]:
    """Corrections that passed in an earlier release and fail in this one, which has passed its gates.

    Old results that cannot be read are no reason to hold a proved release back; it is said.
    """
    behind = [results.listed(one) for one in history.ancestry(night.store, release.parent)]
    try:
        with results.connect(night.store, behind, night.name) as connection:
            return gates.regressions(connection, proof.rows)
    except (duckdb.Error, pa.ArrowException, OSError) as fault:
        tell(f"{night.name}: whether corrections regressed is not known: old results are damaged ({fault})")
        return []
