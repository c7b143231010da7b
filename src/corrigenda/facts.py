"""Frozen values that every layer speaks: corrections, what the editor may see of them, and digests.

Knows nothing of files, stores, models or flows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Action = Literal["upsert", "retract"]
Warn = Callable[[str], object]  # is told what a person should know, and goes on
Progress = Callable[[int], None]  # is told how much more of a long work is done
_PROVENANCE = ("source", "reason", "priority", "model")  # columns in which repeats may differ
_IF_GIVEN = ("aliases", "question", "entails")  # came later: empty, they leave a row's digest as it was


def sha256_hex(body: bytes) -> str:
    """The name of these bytes in the store: 64 lower-case hexadecimal digits."""
    return hashlib.sha256(body).hexdigest()


def digest_of(value: Any) -> str:
    """The digest of a JSON-able value in canonical form (sorted keys, no blanks, UTF-8)."""
    body = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256_hex(body.encode())


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A prompt near a correction whose answer must not change."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class EditRequest:
    """All that the editor may see of a correction: paraphrases and neighbours are held out.

    prompt   exactly one `{}`, where the subject goes
    target   the right completion, without leading blank
    """

    subject: str
    prompt: str
    target: str

    @property
    def text(self) -> str:
        """The prompt with its subject, as the model reads it."""
        return self.prompt.replace("{}", self.subject)

    @property
    def digest(self) -> str:
        """Names this request in every cache: the same content is never computed twice."""
        return digest_of([self.subject, self.prompt, self.target])


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """One queued request to mend one fact in one model; a checked row of a queue file."""

    correction_id: str
    subject: str
    prompt: str
    target_new: str
    asserted_at: datetime
    action: Action = "upsert"
    model: str = ""
    aliases: tuple[str, ...] = ()
    target_old: str | None = None
    question: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighborhood: tuple[Neighbour, ...] = ()
    entails: tuple[Neighbour, ...] = ()
    source: str | None = None
    reason: str | None = None
    priority: int = 0

    @property
    def request(self) -> EditRequest:
        return EditRequest(self.subject, self.prompt, self.target_new)

    @property
    def content(self) -> Mapping[str, Any]:
        """Every column but the provenance, JSON-able: two rows with equal content are repeats."""
        row = {name: getattr(self, name) for name in self.__slots__ if name not in _PROVENANCE}
        for name in ("neighborhood", "entails"):
            row[name] = tuple({"prompt": one.prompt, "answer": one.answer} for one in row[name])
        given = {name: value for name, value in row.items() if value or name not in _IF_GIVEN}
        return given | {"asserted_at": self.asserted_at.isoformat()}

    @property
    def asserts(self) -> str:
        """Names what is said, whenever it is said: the digest of the content without its time."""
        return digest_of({name: value for name, value in self.content.items() if name != "asserted_at"})


@dataclass(frozen=True, slots=True)
class ProxyFact:
    """A fact that localization probes a model with: what it knows, and a counterfactual.

    rephrase, neighbour   optional prompts for edit-shaped scores and trial edits
    """

    subject: str
    prompt: str
    target_true: str
    target_new: str
    rephrase: str | None = None
    neighbour: Neighbour | None = None

    @property
    def text(self) -> str:
        return self.prompt.replace("{}", self.subject)
