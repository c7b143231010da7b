"""What an S3 server's error codes mean, and what to do about each: one table.

Some speak of the whole store (credentials, clock, region), some of one object (an archive, a key), some of
a moment. The first stop a run, the second are that object's problem, the third are worth another try.
"""

from __future__ import annotations

from typing import NamedTuple

from botocore.exceptions import ClientError

from corrigenda.errors import ObjectUnreadableError, SetupError, StorageError, UnknownOutcomeError


class Meaning(NamedTuple):
    """An error code in words."""

    kind: type[SetupError]
    what: str
    remedy: str


_EXPIRED = Meaning(
    SetupError,
    "the credentials have expired",
    "Renew them (`aws sso login`, a new session token, the role of the pod) and start again",
)
_REGION = Meaning(
    SetupError,
    "the bucket is in another region",
    "Set `region` of this store in fleet.toml to the bucket's",
)
_KEY = Meaning(
    ObjectUnreadableError,
    "the object's encryption key cannot be used",
    "Enable the KMS key again, or let this role use it",
)
_RIGHTS = "Let this role read, write and list it; check the bucket's policy, too"
_CONDITIONAL = Meaning(
    SetupError,
    "this store has no conditional writes",
    "Use a store that honours If-None-Match and If-Match (AWS S3, SeaweedFS, MinIO, R2)",
)
_CHECKSUM = Meaning(
    SetupError,
    "the store does not take checksums with an upload",
    'Set `request_checksums = "when_required"` for this store in fleet.toml',
)
MEANINGS = {
    **dict.fromkeys(
        ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"), _EXPIRED
    ),
    "InvalidToken": _EXPIRED._replace(what="the session token is not valid"),
    "InvalidAccessKeyId": Meaning(
        SetupError,
        "the access key is not known",
        "Check access_key, or AWS_ACCESS_KEY_ID, and the endpoint",
    ),
    "SignatureDoesNotMatch": Meaning(
        SetupError,
        "the secret key does not fit the access key",
        "Check secret_key, or AWS_SECRET_ACCESS_KEY",
    ),
    "RequestTimeTooSkewed": Meaning(
        SetupError,
        "this machine's clock is off",
        "Let NTP set the clock of this machine, and start again",
    ),
    **dict.fromkeys(
        (
            *("301", "307", "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"),
            *("IllegalLocationConstraintException", "IncorrectEndpoint"),
        ),
        _REGION,
    ),
    "NoSuchBucket": Meaning(
        SetupError, "there is no such bucket", "Check `url` in fleet.toml, or make the bucket"
    ),
    **dict.fromkeys(
        ("401", "403", "AccessDenied"), Meaning(ObjectUnreadableError, "access is denied", _RIGHTS)
    ),
    "InvalidObjectState": Meaning(
        ObjectUnreadableError,
        "the object is archived (Glacier)",
        "Restore it, or move it out of the way of this prefix",
    ),
    "QuotaExceeded": Meaning(
        SetupError, "the store is full: its quota is used up", "Raise the quota, or run `corrigenda gc`"
    ),
    "XAmzContentChecksumMismatch": _CHECKSUM,
    "XAmzContentSHA256Mismatch": _CHECKSUM,
    "InvalidStorageClass": Meaning(SetupError, "the storage class is not known there", _RIGHTS),
}
# Answers with a status below 500 that are worth another try all the same.
_PASSING = {
    "408",
    "429",
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "OperationAborted",
}


def code_of(fault: ClientError) -> str:
    """S3's error code, or the HTTP status when a HEAD had no body to say it in."""
    answer = fault.response
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(answer.get("Error", {}).get("Code", status))
    return str(status) if status >= 500 and code != "NotImplemented" else code


def explained(fault: ClientError, *, store: str, key: str, writing: bool) -> SetupError:
    """Our error for a server's answer.

    writing   a write that ended in a fault of the server may have landed: UnknownOutcomeError then
    """
    code, said = code_of(fault), str(fault.response.get("Error", {}).get("Message", ""))
    meaning = _meaning(code, said, writing=writing)
    facts = {"code": code, "store": store} | ({"key": key} if key else {}) | _region(fault, meaning)
    if meaning:
        alone = meaning.kind is ObjectUnreadableError and key and not writing
        kind = SetupError if meaning.kind is ObjectUnreadableError and not alone else meaning.kind
        return kind(meaning.what, remedy=meaning.remedy, **facts)
    if code.startswith("5") or code in _PASSING:
        unknown = writing and code.startswith("5")
        passing = UnknownOutcomeError if unknown else StorageError
        return passing(f"the store answered {code}", remedy="Try again later", **facts)
    facts |= {"said": said[:200]} if said else {}
    return SetupError(
        f"the store answered {code}", remedy="Look the code up with the store's operator", **facts
    )


def _meaning(code: str, said: str, *, writing: bool) -> Meaning | None:
    low = said.lower()
    if writing and (code in ("NotImplemented", "501") or (code == "InvalidArgument" and "if-" in low)):
        return _CONDITIONAL
    if code.startswith("KMS."):
        return _KEY
    if code in ("InvalidRequest", "InvalidArgument") and "server side encryption" in low:
        return _KEY._replace(
            remedy="It was stored under a key of its writer's own (SSE-C): write it again without one"
        )
    if (
        code in ("InvalidRequest", "InvalidArgument", "BadDigest")
        and "checksum" in low
        and "object lock" not in low
    ):
        return _CHECKSUM
    return MEANINGS.get(code)


def _region(fault: ClientError, meaning: Meaning | None) -> dict[str, str]:
    headers = fault.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = headers.get("x-amz-bucket-region")
    return {"region": str(region)} if region and meaning is _REGION else {}
