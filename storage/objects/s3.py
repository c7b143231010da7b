"""A bucket, or a prefix of one, as an object store: AWS S3 or any server that honours conditional writes.

Whether a write landed is told apart from whether it is known: a refusal is None, a broken line during a
write is UnknownOutcomeError.
"""

from __future__ import annotations

import base64
import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ResponseStreamingError,
)

from corrigenda.config import Location
from corrigenda.errors import (
    NotFoundError,
    SetupError,
    StorageError,
    UnknownOutcomeError,
)
from corrigenda.storage.objects.interface import ObjectInfo, checked_key
from corrigenda.storage.objects.s3_answers import code_of, explained

PART = 16 << 20  # bytes; larger files go up in parts of this size
_CHUNK = 256 << 10  # bytes read from a connection at a time: small enough to be allocated cheaply
COPY_LIMIT = 5 << 30  # bytes; S3 copies larger objects in parts only
COPY_PART = 1 << 30
_WORKERS = 4  # parts of one object at a time
CONNECTIONS = 32
ATTEMPTS = 5  # the client's own, with jittered backoff
READS = 4  # of one small object, when its body is cut
_PAUSE_S = 0.1  # before the second read; doubles, with jitter

T = TypeVar("T")
_Part = dict[str, Any]  # an uploaded part, as complete_multipart_upload wants it

_ABSENT = {"404", "NoSuchKey", "NotFound"}
# 412, or 409 when the race was concurrent; 404 when the key that If-Match speaks of is gone.
_LOST = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"} | _ABSENT
_NEVER_SENT = (EndpointConnectionError, ConnectTimeoutError, NoCredentialsError, PartialCredentialsError)


@dataclass(frozen=True, slots=True)
class S3Store:
    """Objects of `bucket` below `prefix` (empty, or ending with '/'). A version is an ETag.

    checksums   whether uploads say their SHA-256; some servers take none
    """

    client: Any
    bucket: str
    prefix: str
    checksums: bool = True

    @classmethod
    def connect(cls, location: Location) -> S3Store:
        """The store at an s3:// address. Raises SetupError when the bucket cannot be used."""
        bucket, _, prefix = location.url.removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        client = boto3.client(
            "s3",
            endpoint_url=location.endpoint_url,
            region_name=location.region,
            aws_access_key_id=location.access_key,
            aws_secret_access_key=location.secret_key,
            config=Config(
                retries={"mode": "standard", "max_attempts": ATTEMPTS},
                max_pool_connections=CONNECTIONS,
                connect_timeout=10,
                read_timeout=60,
                request_checksum_calculation=location.request_checksums,
                response_checksum_validation="when_required",
            ),
        )
        checksums = location.request_checksums == "when_supported"
        store = cls(client, bucket, f"{prefix}/" if prefix else "", checksums)
        with store._explained(""):
            _greet(client, bucket)
        return store

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def get(self, key: str) -> tuple[bytes, str]:
        def read() -> tuple[bytes, str]:
            answer = self.client.get_object(Bucket=self.bucket, Key=self._key(key))
            return answer["Body"].read(), str(answer["ETag"])

        with self._explained(key):
            return _whole(read)

    def get_range(self, key: str, start: int, stop: int) -> bytes:
        def read() -> bytes:
            body = self._open(key, start, stop)
            return bytes(body.read()) if body else b""

        with self._explained(key):
            return _whole(read)

    def read_into(self, key: str, start: int, view: memoryview) -> int:
        done = 0
        with self._explained(key):
            body = self._open(key, start, start + len(view))
            while body and done < len(view) and (chunk := body.read(min(_CHUNK, len(view) - done))):
                view[done : done + len(chunk)] = chunk
                done += len(chunk)
        return done

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            with self._explained(key):
                head = self.client.head_object(Bucket=self.bucket, Key=self._key(key))
                return ObjectInfo(key, head["ContentLength"], head["ETag"], head["LastModified"])
        except NotFoundError:
            return None

    def create(self, key: str, body: bytes) -> str | None:
        return self._put(key, body, IfNoneMatch="*")

    def replace(self, key: str, body: bytes, *, version: str) -> str | None:
        return self._put(key, body, IfMatch=version)

    def create_from_file(self, key: str, path: Path) -> str | None:
        size = path.stat().st_size
        if size <= PART:
            return self.create(key, path.read_bytes())

        def send(upload: dict[str, Any], number: int) -> _Part:
            with path.open("rb") as file:
                file.seek(PART * (number - 1))
                body = file.read(PART)
            check = self._checksum(body)
            answer = self.client.upload_part(Body=body, PartNumber=number, **check, **upload)
            return {"ETag": answer["ETag"], "PartNumber": number, **check}

        count = -(-size // PART)
        options = {"ChecksumAlgorithm": "SHA256"} if self.checksums else {}
        return self._in_parts(key, count, send, options, {"IfNoneMatch": "*"})

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        pages = self.client.get_paginator("list_objects_v2")
        with self._explained(prefix):
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for entry in page.get("Contents", ()):
                    key = entry["Key"].removeprefix(self.prefix)
                    if not any(part.startswith(".") for part in key.split("/")) and not key.endswith("/"):
                        yield ObjectInfo(key, entry["Size"], entry["ETag"], entry["LastModified"])

    def copy(self, source: str, target: str) -> None:
        found = self.stat(source)
        if found is None:
            raise self._missing(source)
        origin = {"Bucket": self.bucket, "Key": self._key(source)}
        if found.size <= COPY_LIMIT:
            # A copy onto itself is refused unless something is said to change.
            how = {"MetadataDirective": "REPLACE"} if source == target else {}
            with self._explained(target, writing=True):
                self.client.copy_object(Bucket=self.bucket, Key=self._key(target), CopySource=origin, **how)
            return
        size = found.size

        def send(upload: dict[str, Any], number: int) -> _Part:
            start = COPY_PART * (number - 1)
            span = f"bytes={start}-{min(start + COPY_PART, size) - 1}"
            answer = self.client.upload_part_copy(
                CopySource=origin,
                CopySourceRange=span,
                PartNumber=number,
                **upload,
            )
            return {"ETag": answer["CopyPartResult"]["ETag"], "PartNumber": number}

        self._in_parts(target, -(-size // COPY_PART), send, {}, {})

    def delete(self, key: str) -> None:
        with self._explained(key, writing=True):
            self.client.delete_object(Bucket=self.bucket, Key=self._key(key))

    def touch(self, key: str) -> bool:
        try:
            self.copy(key, key)
        except NotFoundError:
            return False
        return True

    def delete_unchanged(self, info: ObjectInfo) -> bool:
        """S3 knows no deletion by age, so this looks and deletes at once; leases keep writers out between."""
        now = self.stat(info.key)
        if now is not None and (now.modified.replace(microsecond=0), now.size) != (
            info.modified.replace(microsecond=0),
            info.size,
        ):
            return False
        self.delete(info.key)
        return True

    def sweep(self, before: datetime) -> None:
        """Uploads in parts that nobody has ended cost space, too."""
        where = {"Bucket": self.bucket, "Prefix": self.prefix}
        with self._explained(""):
            for page in self.client.get_paginator("list_multipart_uploads").paginate(**where):
                for found in page.get("Uploads", ()):
                    if found["Initiated"] < before:
                        self.client.abort_multipart_upload(
                            Bucket=self.bucket, Key=found["Key"], UploadId=found["UploadId"]
                        )

    def clock(self) -> datetime:
        with self._explained(""):
            answer = self.client.head_bucket(Bucket=self.bucket)
            said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
            return parsedate_to_datetime(said) if said else datetime.now(UTC)

    def md5_of(self, info: ObjectInfo) -> str | None:
        """The MD5 of a listed object where its ETag is one: not of uploads in parts or under a KMS key."""
        etag = info.version.strip('"')
        if len(etag) != 32 or not set(etag) <= set("0123456789abcdef"):
            return None
        with self._explained(info.key):
            head = self.client.head_object(Bucket=self.bucket, Key=self._key(info.key))
        encrypted = str(head.get("ServerSideEncryption", "")).startswith("aws:kms")
        return None if encrypted or "SSECustomerAlgorithm" in head else etag

    def _checksum(self, body: bytes) -> dict[str, str]:
        return {"ChecksumSHA256": _sha256(body)} if self.checksums else {}

    def _key(self, key: str) -> str:
        return self.prefix + checked_key(key)

    def _open(self, key: str, start: int, stop: int) -> Any:
        """The stream of a range; None when there is nothing in it."""
        if stop <= start:
            return None
        span = f"bytes={start}-{stop - 1}"
        try:
            return self.client.get_object(Bucket=self.bucket, Key=self._key(key), Range=span)["Body"]
        except ClientError as fault:
            if code_of(fault) in {"416", "InvalidRange"}:  # `start` is behind the end
                return None
            raise

    def _put(self, key: str, body: bytes, **condition: str) -> str | None:
        with self._explained(key, writing=True):
            try:
                answer = self.client.put_object(
                    Bucket=self.bucket,
                    Key=self._key(key),
                    Body=body,
                    **self._checksum(body),
                    **condition,
                )
                return str(answer["ETag"])
            except ClientError as fault:
                if code_of(fault) in _LOST:
                    return None
                raise

    def _in_parts(
        self,
        key: str,
        count: int,
        send: Callable[[dict[str, Any], int], _Part],
        options: dict[str, Any],
        condition: dict[str, Any],
    ) -> str | None:
        """A multipart upload of `count` parts; abandoned parts are removed unless the end is unknown."""
        where = {"Bucket": self.bucket, "Key": self._key(key)}
        with self._explained(key):
            upload = {
                **where,
                "UploadId": self.client.create_multipart_upload(**where, **options)["UploadId"],
            }
        try:
            with self._explained(key), ThreadPoolExecutor(_WORKERS) as pool:
                parts = tuple(pool.map(lambda number: send(upload, number), range(1, count + 1)))
            return self._complete(key, upload, parts, condition)
        except UnknownOutcomeError:
            raise
        except BaseException:
            with suppress(ClientError, BotoCoreError):
                self.client.abort_multipart_upload(**upload)
            raise

    def _complete(
        self, key: str, upload: dict[str, Any], parts: Sequence[_Part], condition: dict[str, Any]
    ) -> str | None:
        with self._explained(key, writing=True):
            try:
                answer = self.client.complete_multipart_upload(
                    **upload, MultipartUpload={"Parts": list(parts)}, **condition
                )
                return str(answer["ETag"])
            except ClientError as fault:
                if code_of(fault) not in _LOST:
                    raise
                with suppress(ClientError, BotoCoreError):
                    self.client.abort_multipart_upload(**upload)
                return None

    @contextmanager
    def _explained(self, key: str, *, writing: bool = False) -> Iterator[None]:
        """Turn the client's errors into ours; a line that broke after a write was sent is unknown."""
        try:
            yield
        except ClientError as fault:
            if code_of(fault) in _ABSENT and key:
                raise self._missing(key) from None
            raise explained(fault, store=self.url, key=key, writing=writing) from fault
        # A line that is cut within the headers ends them: a date is none, and what follows is missing.
        except (BotoCoreError, HTTPClientError, OSError, ValueError, KeyError) as fault:
            raise self._broken(fault, key, writing) from fault

    def _broken(self, fault: Exception, key: str, writing: bool) -> SetupError:
        if isinstance(fault, (NoCredentialsError, PartialCredentialsError)):
            return SetupError(
                "there are no credentials for the bucket",
                remedy="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
                store=self.url,
            )
        cause = f"{type(fault).__name__}: {fault}"[:200]
        if writing and not isinstance(fault, _NEVER_SENT):
            return UnknownOutcomeError(
                "it is not known whether a write landed",
                remedy="Look before trying again; clean nothing up",
                store=self.url,
                key=key,
                cause=cause,
            )
        return StorageError(
            "the store does not answer",
            remedy="Check the network and `endpoint_url`, then try again",
            store=self.url,
            key=key,
            cause=cause,
        )

    def _missing(self, key: str) -> NotFoundError:
        return NotFoundError(
            "there is no such object in the store",
            remedy="Check the name, or run `corrigenda doctor`",
            key=key,
            store=self.url,
        )


def _greet(client: Any, bucket: str) -> None:
    """See that the bucket answers. A refused HEAD has no body: a listing says why."""
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as fault:
        if code_of(fault).isdigit():
            client.list_objects_v2(Bucket=bucket, MaxKeys=1)
        raise


def _whole(read: Callable[[], T]) -> T:
    """`read` again when the line is cut within the body: the client itself repeats nothing by then."""
    for attempt in range(READS):
        try:
            return read()
        except (IncompleteReadError, ResponseStreamingError):
            if attempt == READS - 1:
                raise
            time.sleep(_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def _sha256(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()
