"""Making a candidate visible: manifest, canary, read-back of what is stored, then one compare-and-swap."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from corrigenda.config import Defaults
from corrigenda.editing import versions
from corrigenda.errors import CorrigendaError, LostRaceError
from corrigenda.facts import digest_of
from corrigenda.pipeline.ingest import NightPlan
from corrigenda.pipeline.night import Night
from corrigenda.pipeline.progress import tell
from corrigenda.storage.corrections.ledger import Ledger
from corrigenda.storage.delivery import pull
from corrigenda.storage.releases import chronicle, hold, layouts, publish, refs, signatures, snapshots
from corrigenda.storage.releases.manifests import Release
from corrigenda.storage.releases.publish import Candidate

if TYPE_CHECKING:
    from corrigenda.editing.localization.layer_scores import LayerScores
    from corrigenda.pipeline.edit import Edit
    from corrigenda.pipeline.validate import Proof


def asked_for(settings: Defaults) -> str:
    """The digest of all, besides the active set, that can change a published weight: settings, algorithms."""
    sections = (settings.editing, settings.localization, settings.covariance)
    asked: list[Any] = [dict(versions.OF_AN_EDIT), *(section.model_dump() for section in sections)]
    if settings.dtype != "auto":
        asked.append(settings.dtype)
    return digest_of(asked)


def stage(
    night: Night, base: Release, plan: NightPlan, edit: Edit, scores: LayerScores, proof: Proof
) -> Release:
    """Write the manifest of what was tested and point `canary` at it."""
    candidate = Candidate(
        layer=edit.layer,
        settings={
            "asked": asked_for(night.settings),
            "editing": edit.settings,
            "localization": scores.to_json(),
        },
        gates=proof.verdict.as_json(),
        **_books(night, plan, edit.ledger),
    )
    return publish.stage(night.store, base, proof.files, candidate, parent=plan.head, keys=night.keys)


def stage_books(night: Night, base: Release, plan: NightPlan) -> Release:
    """A candidate with the head's own files: the books have changed, the active set has not."""
    head = plan.head
    candidate = Candidate(
        layer=head.layer,
        settings=head.settings,
        gates=head.gates,
        **_books(night, plan, plan.ledger),
    )
    return publish.stage(night.store, base, head.files, candidate, parent=head, keys=night.keys)


def _books(night: Night, plan: NightPlan, corrections: Ledger) -> dict[str, Any]:
    kept, consumed = snapshots.put(night.store, corrections, plan.consumed)
    return {
        "ledger": kept,
        "consumed": consumed,
        "counts": {"run_id": night.fleet.run_id, **corrections.counts},
        "details": {
            "run_id": night.fleet.run_id,
            "torch": version("torch"),
            "transformers": version("transformers"),
            "machine": platform.machine(),
        },
    }


def publish_release(night: Night, plan: NightPlan, release: Release) -> Release:
    """Read the staged files back as a consumer would, then move `latest`: the night's one visible act.

    Raises LostRaceError when another run was first, HeldError when the model was put on hold meanwhile.
    """
    # By its number: `canary` may be moved by a run that took over a lease which this one slept through.
    there = night.workplace / "candidate"
    back = pull.pull(night.store, night.name, str(release.number), there, night.blob_cache)
    if back.release.digest != release.digest:
        raise LostRaceError(
            "somebody has written over the candidate's manifest",
            remedy="Find out who else writes to this store, then run again",
            model=night.name,
            release=release.number,
        )
    signatures.keep(night.store, release, night.keys)
    furnish(night, release)
    hold.require_none(night.store, night.name)
    publish.promote(night.store, release, seen=plan.seen, keys=night.keys)
    _write_up(night)
    return release


def _write_up(night: Night) -> None:
    """Let the chronicle have what has happened. It is never needed, so that no fault in it fails a night."""
    try:
        chronicle.update(night.store, night.name)
    except CorrigendaError as fault:
        tell(f"{night.name}: the chronicle was not written up; the next night does it ({fault.what})")


def furnish_head(night: Night, plan: NightPlan) -> Release:
    """What goes with the published release: layouts that were asked for since, and a ref that holds on.

    Nothing of another's is signed here: `take_in` has verified the head, and the ref says it still.
    """
    furnish(night, plan.head)
    if plan.seen.ref and refs.is_due(plan.seen.ref, night.keys):
        refs.confirm(night.store, night.name, "latest", seen=plan.seen, keys=night.keys)
    return plan.head


def furnish(night: Night, release: Release) -> None:
    """The layouts that this release shall have, its signature in them. Doing it twice is doing it once."""
    if "hf" in night.layouts:
        layouts.assemble(night.store, release)
