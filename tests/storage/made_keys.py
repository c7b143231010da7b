"""Keys for tests, made by the library that production uses."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from corrigenda.storage.objects.keys import SigningKey


def make_key(path: Path, password: str | None = None, curve: ec.EllipticCurve | None = None) -> SigningKey:
    """A private key in `path` and its public half beside it, in `path` with `.pub`."""
    private = ec.generate_private_key(curve or ec.SECP256R1())
    closed = serialization.BestAvailableEncryption(password.encode()) if password else None
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(
        private.private_bytes(serialization.Encoding.PEM, form, closed or serialization.NoEncryption())
    )
    key = SigningKey(path, password)
    path.with_suffix(".pub").write_bytes(key.public_pem())
    return key
