"""OpenSSF model signatures of releases, by a local key: who published this, whoever holds the store.

A signature names the release's files by their digests and the manifest by its own, so that nothing has to
be read again to make or to check one. It lies beside the manifest and not in it: a manifest's name does not
depend on who signed it. Other tools for such signatures can check the directory, too.
Needs `corrigenda[sign]`.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.errors import NotFoundError, SignatureError
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.objects.keys import Keyring, SigningKey, key_id, require_extra
from corrigenda.storage.releases.manifests import LAID_OUT, RESERVED, SIGNATURE, Release, check_model

if TYPE_CHECKING:
    from model_signing.manifest import Manifest

# What lies beside a release's files and is no part of it: manifests, and the signature itself.
BESIDE = (RESERVED, LAID_OUT, SIGNATURE)


def sign(release: Release, signer: SigningKey) -> bytes:
    """A Sigstore bundle with an in-toto statement of all files. Raises SetupError."""
    signer.load()
    from model_signing import signing

    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / SIGNATURE
        config = signing.Config().set_hashing_config(_Known(release))
        config.use_elliptic_key_signer(private_key=signer.path, password=signer.secret)
        config.sign(release.model, made)
        return made.read_bytes()


def key(release: Release, signed_by: str = "") -> str:
    """Where the signature of a release by the key of that id lies; without an id, of before keys had one."""
    name = f"{release.digest}.{signed_by}" if signed_by else release.digest
    return f"models/{check_model(release.model)}/signatures/{name}.sig"


def manifest_of(object_key: str) -> str:
    """The digest of the manifest that the signature at this key of a store speaks of."""
    return object_key.rpartition("/")[2].partition(".")[0]


def keep(store: ObjectStore, release: Release, keys: Keyring) -> bool:
    """Let the store hold a signature by each signing key; whether one had to be made.

    Good ones stay, also those by other keys; damaged ones are replaced. Doing it twice is doing it once.
    """
    made = [_keep(store, release, signer) for signer in keys.signers]
    return any(made)


def require(store: ObjectStore, release: Release, keys: Keyring) -> bytes:
    """The stored signature of a release by one of the trusted keys. Raises SignatureError."""
    places = [key(release, name) for name in keys.public] + [key(release)]
    found = [body for place in places if (body := _read(store, place)) is not None]
    others = [] if found else [info.key for info in store.list(key(release).removesuffix("sig"))]
    if others:
        raise SignatureError(
            "the release is signed, and not by a key that is trusted here",
            remedy="Do not use this release before you know who signed it; if the signer's key has changed, "
            "give the new one",
            model=release.model,
            release=release.number,
            signed_by=sorted(name.split(".")[-2] for name in others)[:10],
            trusted=sorted(keys.public),
        )
    return require_good(found, release, keys)


def require_good(found: Sequence[bytes], release: Release, keys: Keyring) -> bytes:
    """The first of `found` that is a signature of the release by a trusted key. Raises SignatureError."""
    if not found:
        raise SignatureError(
            "the release is not signed",
            remedy=f"If it is right, its publisher runs `corrigenda sign {release.model}@{release.number}`; "
            "use no release that should be signed and is not",
            model=release.model,
            release=release.number,
        )
    for body in found[:-1]:
        with suppress(SignatureError):
            verify(body, release, [*keys.public.values()])
            return body
    verify(found[-1], release, [*keys.public.values()])
    return found[-1]


def verify(body: bytes, release: Release, keys: Sequence[bytes]) -> None:
    """Return when `body` is a signature of this very release by one of the public keys (PEM).

    Raises SignatureError otherwise, SetupError when the extra is missing.
    """
    require_extra()
    faults = []
    for public in keys:
        try:
            _verify(body, release, public)
            return
        except Exception as fault:  # whatever a hostile signature makes the library raise, it is refused
            faults.append(str(fault)[:200] or type(fault).__name__)
    raise SignatureError(
        "the release's signature is not good",
        remedy="Do not use this release before you know who wrote it; if the signer's key has changed, "
        "give the new one",
        model=release.model,
        release=release.number,
        why=faults,
    )


def copy_beside(store: ObjectStore, release: Release, prefix: str) -> None:
    """Put a signature, where there is one, beside the release's files in a prefix of the store."""
    stem = key(release).removesuffix("sig")
    newest = max(store.list(stem), key=lambda info: info.modified, default=None)
    if newest is not None:
        store.copy(newest.key, prefix + SIGNATURE)


def _keep(store: ObjectStore, release: Release, signer: SigningKey) -> bool:
    public = signer.public_pem()
    place = key(release, key_id(public))
    for _ in range(2):  # the second look is at what somebody else wrote meanwhile
        try:
            there, version = store.get(place)
        except NotFoundError:
            if store.create(place, sign(release, signer)) is not None:
                return True
            continue
        with suppress(SignatureError):
            verify(there, release, [public])
            return False
        if store.replace(place, sign(release, signer), version=version) is not None:
            return True
    return False


def _read(store: ObjectStore, place: str) -> bytes | None:
    try:
        return store.get(place)[0]
    except NotFoundError:
        return None


class _Known:
    """What the signing library asks for a directory's digests: they are known, nothing is hashed."""

    def __init__(self, release: Release) -> None:
        self._release = release

    def hash(self, model_path: object, *, files_to_hash: object = None) -> Manifest:
        from model_signing import manifest
        from model_signing._hashing.hashing import Digest

        plain = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
        kind = manifest.SerializationType.from_args(plain | {"ignore_paths": list(BESIDE)})
        items = [
            kind.new_item(path, Digest("sha256", bytes.fromhex(ref.digest)))
            for path, ref in self._release.files.items()
            if path not in BESIDE
        ]
        return manifest.Manifest(_subject(self._release), items, kind)

    def add_ignored_paths(self, **_: object) -> None:
        """Nothing is read from a directory, so nothing in it has to be ignored."""


def _subject(release: Release) -> str:
    """The signed name. Through the manifest's digest it vouches for the base, the gates, the parent."""
    return f"{release.model}@{release.number} {release.digest}"


def _verify(body: bytes, release: Release, public: bytes) -> None:
    from model_signing import verifying

    with tempfile.TemporaryDirectory() as scratch:
        bundle, pem = Path(scratch) / SIGNATURE, Path(scratch) / "public.pem"
        bundle.write_bytes(body)
        pem.write_bytes(public)
        config = verifying.Config().use_elliptic_key_verifier(public_key=pem)
        config.set_hashing_config(_Known(release)).verify(release.model, bundle)
    # The library takes the name for a hint. To us it says which release this is.
    statement: dict[str, Any] = json.loads(base64.b64decode(json.loads(body)["dsseEnvelope"]["payload"]))
    signed = statement["subject"][0]["name"]
    if signed != _subject(release):
        raise ValueError(f"it is a signature of {signed!r:.120}")
