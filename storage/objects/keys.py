"""Keys: what is made here is signed with them, and what a store says is believed when one has signed it.

A seal is a signature of a short statement: what it is about, and facts in canonical JSON. Whoever can write
to a store but has no key can hide things and bring old ones back, and cannot make a seal for anything.
Needs `corrigenda[sign]` where there are keys, and nothing where there are none.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.config import FleetConfig
from corrigenda.errors import SetupError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey

NEEDED = ("model_signing", "OpenSSL", "cryptography")

Seals = Mapping[str, str]  # key id -> signature in base64


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key in a PEM file: NIST P-256, P-384 or P-521, with its password if it has one."""

    path: Path
    password: str | None = None

    @property
    def secret(self) -> bytes | None:
        return self.password.encode() if self.password else None

    def load(self) -> Any:
        """The key, opened. Raises SetupError when it cannot be used or the extra is missing."""
        require_extra()
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

        try:
            loaded = serialization.load_pem_private_key(self.path.read_bytes(), self.secret)
        except (OSError, ValueError, TypeError) as fault:
            raise SetupError(
                "the signing key cannot be used",
                remedy="Give a PEM file of a private key of NIST P-256, P-384 or P-521; "
                "its password comes from CORRIGENDA_SIGNING__PASSWORD",
                key=str(self.path),
                cause=str(fault)[:200],
            ) from None
        if not isinstance(loaded, EllipticCurvePrivateKey):
            raise SetupError(
                "the signing key is of a kind that model signatures do not know",
                remedy="Make one: openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
                key=str(self.path),
            )
        return loaded

    def public_pem(self) -> bytes:
        """The public half. Raises SetupError when the key cannot be used or the extra is missing."""
        from cryptography.hazmat.primitives import serialization

        form = serialization.PublicFormat.SubjectPublicKeyInfo
        body: bytes = self.load().public_key().public_bytes(serialization.Encoding.PEM, form)
        return body


class Keyring:
    """The keys that one fleet signs with, and those whose seals it believes.

    signers   private keys; what is made here gets a seal of each
    trusted   PEM files of public keys; those of `signers` are trusted, too
    valid     for how long a published ref holds without being confirmed; None: for ever

    Without any key nothing is sealed and everything is believed. A plain class: it shows no key.
    """

    def __init__(
        self,
        signers: Sequence[SigningKey] = (),
        trusted: Sequence[Path] = (),
        valid: timedelta | None = None,
    ) -> None:
        self.signers, self.trusted, self.valid = tuple(signers), tuple(trusted), valid

    @classmethod
    def of(cls, fleet: FleetConfig) -> Keyring:
        """The keys that a configuration names."""
        said = fleet.signing
        signers = [SigningKey(fleet.root / path, password) for path, password in said.private_keys]
        valid = timedelta(days=said.valid_days) if said.valid_days is not None else None
        return cls(signers, [fleet.root / path for path in said.public_keys], valid)

    @property
    def checks(self) -> bool:
        """Whether anything has to be signed in order to be believed."""
        return bool(self.signers or self.trusted)

    @cached_property
    def public(self) -> dict[str, bytes]:
        """The trusted keys as PEM, by id. Raises SetupError for a public key that cannot be read.

        Private keys that cannot be opened here are left out: who only reads need not have them.
        """
        pems = [read_public(path) for path in self.trusted]
        for signer in self.signers:
            with suppress(SetupError):
                pems.append(signer.public_pem())
        return {key_id(pem): pem for pem in pems}

    def require_signers(self) -> None:
        """Raises SetupError when this fleet's releases must be signed and cannot be signed here."""
        if self.trusted and not self.signers:
            raise SetupError(
                "the fleet's hosts take signed releases only, and there is no key here to sign with",
                remedy="Set `key` under [signing] in fleet.toml, or run where it is set",
            )
        if self._opened:
            _ = self.public

    def seal(self, what: str, facts: Any) -> dict[str, str]:
        """A seal of these facts by each signing key; none where there is no such key."""
        message = _statement(what, facts)
        return {
            name: base64.b64encode(key.sign(message, _algorithm(key))).decode()
            for name, key in self._opened.items()
        }

    def believes(self, what: str, facts: Any, seals: Seals) -> bool:
        """Whether one of the trusted keys has sealed these very facts; always, where there is no key."""
        if not self.checks:
            return True
        message = _statement(what, facts)
        return any(_holds(self.public[name], message, seals[name]) for name in self.public.keys() & seals)

    def __reduce__(self) -> tuple[type[Keyring], tuple[Any, ...]]:
        """Opened keys stay in the process that opened them."""
        return Keyring, (self.signers, self.trusted, self.valid)

    @cached_property
    def _opened(self) -> dict[str, Any]:
        return {key_id(signer.public_pem()): signer.load() for signer in self.signers}


NOBODY = Keyring()


def key_id(pem: bytes) -> str:
    """A public key's name: 16 hexadecimal digits of the SHA-256 of its DER form."""
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = serialization.load_pem_public_key(pem).public_bytes(serialization.Encoding.DER, form)
    return hashlib.sha256(der).hexdigest()[:16]


def read_public(path: Path) -> bytes:
    """A public key's PEM file. Raises SetupError."""
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


def require_extra() -> None:
    """Raises SetupError, with the remedy, when signatures can be neither made nor checked here."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise SetupError(
            "signatures need an extra that is not installed here",
            remedy="Run `pip install 'corrigenda[sign]'`",
            missing=missing,
        )


def _statement(what: str, facts: Any) -> bytes:
    """What is signed. Its head is no beginning of anything else that these keys sign."""
    body = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"corrigenda seal 1\n{what}\n{body}".encode()


def _algorithm(key: EllipticCurvePublicKey) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    wide = key.curve.key_size
    return ec.ECDSA(hashes.SHA256() if wide <= 256 else hashes.SHA384() if wide <= 384 else hashes.SHA512())


def _holds(pem: bytes, message: bytes, seal: object) -> bool:
    """Whether `seal` is this key's. Whatever a hostile one is, it is then none."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    public = serialization.load_pem_public_key(pem)
    if not isinstance(public, EllipticCurvePublicKey) or not isinstance(seal, str):
        return False
    try:
        public.verify(base64.b64decode(seal, validate=True), message, _algorithm(public))
    except (InvalidSignature, ValueError):
        return False
    return True
