"""A hold: a model's `latest` stays where it is, night after night, until somebody lifts the hold.

A rollback alone is undone by the next night, which takes in again what waits in the queue.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from corrigenda.errors import HeldError, LostRaceError, NotFoundError
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.keys import NOBODY, Keyring
from corrigenda.storage.releases import publish, refs
from corrigenda.storage.releases.manifests import check_model
from corrigenda.stored import object_of


@dataclass(frozen=True, slots=True)
class Hold:
    """Why nothing new is published. `since` is ISO 8601, UTC."""

    release: int
    why: str
    who: str
    since: str


def key(model: str) -> str:
    return f"models/{check_model(model)}/hold"


def read(store: ObjectStore, model: str) -> Hold | None:
    """The model's hold; None when there is none. One that cannot be read holds all the same."""
    try:
        body = store.get(key(model))[0]
    except NotFoundError:
        return None
    try:
        return Hold(**object_of(body, release=int, why=str, who=str, since=str))
    except (ValueError, TypeError):
        return Hold(-1, "the hold is damaged: lift it, and place it again", "?", "")


def place(
    store: ObjectStore, model: str, *, at: int | None = None, why: str, who: str, keys: Keyring = NOBODY
) -> Hold:
    """Hold `latest` at a release, moving it back there if need be; over an older hold, that is replaced.

    at     default: where `latest` is now
    keys   as `publish.rollback` has them

    A night that is under way and was about to publish finds the hold. Raises NotFoundError for a release that
    was never published, LostRaceError.
    """
    now = refs.require(store, model, "latest").release
    held = Hold(now if at is None else at, why, who, datetime.now(UTC).isoformat(timespec="seconds"))
    body = json.dumps(asdict(held), ensure_ascii=False).encode()
    before = _body(store, model)
    _write(store, model, body)
    try:
        # After the hold: whatever a night published until then is taken back, and nothing comes after it.
        publish.rollback(store, model, to=held.release, reason=f"held: {why}", keys=keys)
    except Exception:
        _write(store, model, before) if before is not None else store.delete(key(model))
        raise
    return held


def lift(store: ObjectStore, model: str) -> Hold | None:
    """End the hold: the next night publishes again. The hold that there was."""
    held = read(store, model)
    if held is not None:
        store.delete(key(model))
    return held


def require_none(store: ObjectStore, model: str) -> None:
    """Raises HeldError when the model is held."""
    if held := read(store, model):
        raise HeldError(
            "the model is held",
            remedy=f"Lift it with `corrigenda hold {model} --lift`",
            model=model,
            release=held.release,
            why=held.why,
            who=held.who,
            since=held.since,
        )


def _body(store: ObjectStore, model: str) -> bytes | None:
    try:
        return store.get(key(model))[0]
    except NotFoundError:
        return None


def _write(store: ObjectStore, model: str, body: bytes) -> None:
    if store.create(key(model), body) is not None:
        return
    there, version = store.get(key(model))
    if there != body and store.replace(key(model), body, version=version) is None:
        raise LostRaceError("somebody else placed or lifted a hold", remedy="Look again", model=model)
