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
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.errors import NotFoundError, SetupError, SignatureError
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases.manifests import LAID_OUT, RESERVED, SIGNATURE, Release, check_model

if TYPE_CHECKING:
    from model_signing.manifest import Manifest

# What lies beside a release's files and is no part of it: manifests, and the signature itself.
BESIDE = (RESERVED, LAID_OUT, SIGNATURE)
NEEDED = ("model_signing", "OpenSSL", "cryptography")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key in a PEM file: NIST P-256, P-384 or P-521, with its password if it has one."""

    path: Path
    password: str | None = None

    def public_pem(self) -> bytes:
        """The public half. Raises SetupError when the key cannot be used or the extra is missing."""
        require_extra()
        from cryptography.hazmat.primitives import serialization

        try:
            loaded = serialization.load_pem_private_key(self.path.read_bytes(), self._secret)
        except (OSError, ValueError, TypeError) as fault:
            raise SetupError(
                "the signing key cannot be used",
                remedy="Give a PEM file of a private key of NIST P-256, P-384 or P-521; "
                "its password comes from CORRIGENDA_SIGNING__PASSWORD",
                key=str(self.path),
                cause=str(fault)[:200],
            ) from None
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return loaded.public_key().public_bytes(serialization.Encoding.PEM, form)

    def sign(self, release: Release) -> bytes:
        """A Sigstore bundle with an in-toto statement of all files. Raises SetupError."""
        self.public_pem()
        from model_signing import signing

        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / SIGNATURE
            config = signing.Config().set_hashing_config(_Known(release))
            try:
                config.use_elliptic_key_signer(private_key=self.path, password=self._secret)
            except (ValueError, AttributeError):  # AttributeError: a key of another kind
                raise SetupError(
                    "the signing key is of a kind that model signatures do not know",
                    remedy="Make one: openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
                    key=str(self.path),
                ) from None
            config.sign(release.model, made)
            return made.read_bytes()

    @property
    def _secret(self) -> bytes | None:
        return self.password.encode() if self.password else None


def key(release: Release) -> str:
    """Where the signature of a release lies."""
    return f"models/{check_model(release.model)}/signatures/{release.digest}.sig"


def find(store: ObjectStore, release: Release) -> bytes | None:
    """The stored signature, unverified; None when there is none."""
    try:
        return store.get(key(release))[0]
    except NotFoundError:
        return None


def keep(store: ObjectStore, release: Release, signer: SigningKey) -> bool:
    """Let the store hold a signature by this key; whether one had to be made.

    A good one stays; one by another key, or a damaged one, is replaced. Doing it twice is doing it once.
    """
    public = signer.public_pem()
    for _ in range(2):  # the second look is at what somebody else wrote meanwhile
        try:
            there, version = store.get(key(release))
        except NotFoundError:
            if store.create(key(release), signer.sign(release)) is not None:
                return True
            continue
        with suppress(SignatureError):
            verify(there, release, [public])
            return False
        if store.replace(key(release), signer.sign(release), version=version) is not None:
            return True
    return False


def require(store: ObjectStore, release: Release, keys: Sequence[Path]) -> bytes:
    """The stored signature of a release, verified. Raises SignatureError when it is absent or wrong."""
    return require_good(find(store, release), release, keys)


def require_good(body: bytes | None, release: Release, keys: Sequence[Path]) -> bytes:
    """`body` itself, when it is a signature of the release by one of the public keys in PEM files."""
    if body is None:
        raise SignatureError(
            "the release is not signed",
            remedy=f"Let its publisher run `corrigenda sign {release.model}@{release.number}`; "
            "use no release that should be signed and is not",
            model=release.model,
            release=release.number,
        )
    verify(body, release, [_read_key(path) for path in keys])
    return body


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
    """Put the signature, where there is one, beside the release's files in a prefix of the store."""
    if store.stat(key(release)) is not None:
        store.copy(key(release), prefix + SIGNATURE)


def require_extra() -> None:
    """Raises SetupError, with the remedy, when signatures can be neither made nor checked here."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise SetupError(
            "signatures need an extra that is not installed here",
            remedy="Run `pip install 'corrigenda[sign]'`",
            missing=missing,
        )


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


def _read_key(path: Path) -> bytes:
    require_extra()
    from cryptography.hazmat.primitives import serialization

    try:
        body = path.read_bytes()
        serialization.load_pem_public_key(body)
    except (OSError, ValueError) as fault:
        raise SetupError(
            "the public key cannot be read",
            remedy="Give a PEM file: openssl ec -in key.pem -pubout -out key.pub",
            key=str(path),
            cause=str(fault)[:200],
        ) from None
    return body
