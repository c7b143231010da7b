"""What a destination remembers: the newest ref that it has seen, and by which keys it was made.

A store can be made to say again what it said long ago, with good signatures. A host that has seen a later ref
does not take an earlier one for `latest`; and one that has verified once goes on verifying.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from corrigenda.errors import SignatureError
from corrigenda.storage.delivery.destination import Place
from corrigenda.storage.objects.keys import NOBODY, Keyring
from corrigenda.storage.releases.refs import Ref
from corrigenda.stored import object_of, of_types

SEEN = "seen.json"
_KEYS = "trusted"  # a folder of PEM files


def keys_of(place: Place) -> Keyring:
    """The keys that the destination was last verified with; none when it never was."""
    found = sorted((place.side / _KEYS).glob("*.pub"))
    return Keyring(trusted=found) if found else NOBODY


def require_fresh(ref: Ref, model: str) -> Ref:
    """`ref` itself, unless its term is over. Raises SignatureError."""
    if ref.expired:
        raise SignatureError(
            "what the store calls the latest release was not confirmed in time",
            remedy="Look whether its publisher still runs, or whether the store is an old copy; "
            "--allow-older takes it all the same",
            model=model,
            release=ref.release,
            expired_at=ref.expires_at,
        )
    return ref


def require_not_older(place: Place, model: str, name: str, ref: Ref) -> None:
    """Raises SignatureError when the destination has seen a later ref, or another one of this sequence."""
    seen = _read(place.side / SEEN).get(f"{model}@{name}")
    if seen is None or ref.sequence > seen["sequence"]:
        return
    if (ref.sequence, ref.manifest) != (seen["sequence"], seen["manifest"]):
        raise SignatureError(
            "the store goes back to what it said before a release that this host has seen already",
            remedy="Find out whether the store is an old copy or somebody holds back releases; "
            "--allow-older takes it all the same",
            model=model,
            offered=ref.release,
            moved_at=ref.moved_at,
            seen=seen["release"],
        )


def remember(place: Place, model: str, name: str, ref: Ref | None, keys: Keyring) -> None:
    """Keep the keys and, where one was followed, the ref: also an older one that was allowed."""
    folder = place.side / _KEYS
    folder.mkdir(exist_ok=True)
    for key_id, pem in keys.public.items():
        _write(folder / f"{key_id}.pub", pem)
    for path in folder.glob("*.pub"):
        if path.stem not in keys.public:
            path.unlink()
    if ref is not None:
        said = {"sequence": ref.sequence, "manifest": ref.manifest, "release": ref.release}
        seen = _read(place.side / SEEN) | {f"{model}@{name}": said}
        _write(place.side / SEEN, json.dumps(seen, sort_keys=True).encode())


def _read(path: Path) -> dict[str, Any]:
    """Nothing when there is no such file. Raises SignatureError when it is damaged: what it knew is lost."""
    try:
        found = object_of(path.read_bytes())
        for one in found.values():
            of_types(one, sequence=int, manifest=str, release=int)["manifest"]
        return found
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SignatureError(
            "the record of what this host has seen is damaged",
            remedy="Remove it if you know why; the next pull then takes whatever `latest` names",
            path=str(path),
        ) from None


def _write(path: Path, body: bytes) -> None:
    """In one step: a pull that is killed leaves the old record or the new one."""
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_bytes(body)
    scratch.replace(path)
