"""Turns the bytes of a file into text: unpacked, and decoded by the encoding that it names or is told.

Nothing is guessed: text that is no UTF-8 and has no byte order mark needs the name of its encoding, because
two encodings that both fit give two different names of one person.
"""

from __future__ import annotations

import codecs
import gzip
from io import BytesIO

import pyarrow as pa

from corrigenda.errors import CorrectionsError

MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
# The longer mark first: that of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SHOWN = 40  # characters of a line that is shown as an encoding would read it


def unpacked(body: bytes) -> tuple[bytes, str | None]:
    """The bytes inside of gzip or Zstandard, and the name of the packing; others as they are.

    Raises ValueError when what is packed is damaged or cut off.
    """
    packing = next((name for magic, name in MAGIC.items() if body.startswith(magic)), None)
    try:
        if packing == "gzip":
            return gzip.decompress(body), packing
        if packing == "zstd":
            with pa.CompressedInputStream(pa.BufferReader(body), "zstd") as stream:
                return stream.read(), packing
    except (OSError, EOFError, pa.ArrowException) as fault:
        raise ValueError(f"its {packing} is damaged or cut off: {fault}") from None
    return body, None


def decoded(body: bytes, encoding: str | None) -> tuple[str, str | None]:
    """The text, and the encoding when it is another than UTF-8.

    encoding   as told; None takes the byte order mark, or UTF-8

    Raises CorrectionsError for an encoding that nobody knows, ValueError for bytes that do not fit it.
    """
    marked = next((name for mark, name in MARKS.items() if body.startswith(mark)), None)
    name = encoding or marked or "utf-8"
    if encoding and marked and codecs.lookup(marked).name.startswith(_canonical(encoding)):
        name = marked  # the mark of an encoding that was told is no part of the text
    try:
        text = body.decode(_canonical(name))
    except UnicodeDecodeError as fault:
        raise ValueError(_undecodable(body, fault, name)) from None
    return text, None if _canonical(name) in ("utf-8", "utf-8-sig") else _canonical(name)


def _canonical(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        raise CorrectionsError(
            "an encoding of this name is not known",
            remedy="Name one such as utf-8, utf-16, cp1252, cp1251, shift_jis or gb18030",
            encoding=encoding,
        ) from None


def _undecodable(body: bytes, fault: UnicodeDecodeError, name: str) -> str:
    """Where the bytes stop being text, and how other encodings would read that line."""
    if name != "utf-8":
        return f"it is no {name}: {fault.reason} at byte {fault.start}"
    if body[:64].count(0) > len(body[:64]) // 3:
        return (
            f"it is no UTF-8; pass --encoding utf-16-{'le' if body[1:2] == bytes(1) else 'be'} if it is that"
        )
    start = body.rfind(b"\n", 0, fault.start) + 1
    line = body.count(b"\n", 0, fault.start) + 1
    near = body[max(start, fault.start - _SHOWN // 2) : fault.start + _SHOWN // 2].split(b"\n")[0].rstrip()
    readings = [f"{other}: {near.decode(other, 'replace')!r}" for other in ("cp1252", "mac_roman")]
    return f"line {line} is no UTF-8; pass the right --encoding, which reads it well ({'; '.join(readings)})"


def sniffed(body: bytes) -> str:
    """What kind of file the bytes are: Parquet, Excel, JSON or CSV."""
    if body.startswith(b"PAR1"):
        return "Parquet"
    if body.startswith(b"PK\x03\x04"):
        return "Excel"
    head = body[:4096]
    for mark in MARKS:
        head = head.removeprefix(mark)
    head = head.replace(b"\x00", b"").lstrip()
    return "JSON" if head.startswith((b"{", b"[")) else "CSV"


def stream_of(body: bytes) -> BytesIO:
    """The bytes as a file, for readers that want one."""
    return BytesIO(body)
