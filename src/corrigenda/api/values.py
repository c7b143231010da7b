"""What the API returns where no part below has a value of its own: small, frozen, and light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from corrigenda.pipeline.remarks import remarks_on

if TYPE_CHECKING:
    from pyarrow import Table

    # Values of the parts below, for those who may only look here.
    from corrigenda.editing.localization.layer_scores import LayerScores as LayerScores
    from corrigenda.storage.delivery.lora import Adapter as Adapter
    from corrigenda.storage.delivery.pull import Pulled as Pulled
    from corrigenda.storage.delivery.pull import Verified as Verified
    from corrigenda.storage.releases.doctor import Finding as Finding


class _OfRow:
    """A dataclass that is made from a row with at least its columns."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        return cls(**{field.name: row.get(field.name) for field in fields(cls)})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Reject(_OfRow):
    """A row that is no correction, or a whole file (`row` is None): what stood there, and what to do.

    row      counted from 0
    reason   a code that never changes
    file     the queue file that it lies in, and its digest; None for a file that is not in the queue
    """

    row: int | None
    correction_id: str | None
    model: str | None
    reason: str
    column: str | None
    value: str | None
    remedy: str
    file: str | None = None
    file_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """What was understood of the rows that were handed in.

    file          the queue file that was written; None when nothing was, as in a dry run
    queue         where that queue is, which need not be the one that the person thinks of
    kind, shape   what the input was taken for
    corrections   the good rows, in the columns of a queue file
    rejects       rows that are refused
    notes         what was filled in, spelt otherwise, or not taken
    warnings      what the rows would do that may not be meant
    repeats       rows that say nothing new, and are not enqueued again
    probes        per kind of probe, how many the rows bring, and how many rows bring none
    numbers       the row number of each correction, counted from 0
    """

    file: str | None
    kind: str
    shape: str
    corrections: Table
    rejects: tuple[Reject, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    repeats: int = 0
    probes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    numbers: tuple[int, ...] = ()
    queue: str | None = None

    @property
    def good(self) -> int:
        """How many corrections there are."""
        return int(self.corrections.num_rows)

    @property
    def description(self) -> str:
        again = f", repeats: {self.repeats}" if self.repeats else ""
        return (
            f"{self.kind}, {self.shape} shape; good rows: {self.good}, rejected: {len(self.rejects)}{again}"
        )


@dataclass(frozen=True, slots=True)
class Retracted:
    """Retracts that wait in the queue for the next run.

    not_in_a_release   ids of which no release knows; they are retracted all the same when they come
    queue              where that queue is
    """

    file: str
    retracted: tuple[str, ...]
    not_in_a_release: tuple[str, ...]
    queue: str


@dataclass(frozen=True, slots=True)
class QueueProblem:
    """A queue file that cannot be read; it stays where it is and stops nobody."""

    file: str
    reason: str
    detail: str
    remedy: str


@dataclass(frozen=True, slots=True)
class LastNight:
    """How a model's last night ended, and when one went well; times are in UTC.

    went_well_at   None when none did
    """

    run_id: str
    status: str
    ended_at: datetime
    duration_s: float
    error: str | None
    went_well_at: datetime | None


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Where a model stands.

    latest, canary   numbers of releases; None before the first run
    since            when `latest` moved there, ISO 8601, UTC
    ledger           corrections by state
    waiting_rows, waiting_files   of the queue, for the next run
    night                         its last night; None before the first
    held                          why nothing new is published; None where it is
    """

    model: str
    latest: int | None
    canary: int | None
    since: str | None
    layer: int | None
    ledger: Mapping[str, int]
    waiting_rows: int
    waiting_files: int
    night: LastNight | None = None
    held: str | None = None


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """Where a fleet stands.

    damaged    models whose present release cannot be read, and why
    problems   queue files that cannot be read
    rejects    rows of the queue that are no corrections
    notes      sentences for people
    """

    models: tuple[ModelStatus, ...]
    damaged: Mapping[str, str]
    problems: tuple[QueueProblem, ...]
    rejects: tuple[Reject, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """One move of `latest`, and what the release holds; None and nothing where it was cleaned away since.

    moved_at   ISO 8601, UTC
    manifest   digest
    counts     corrections by state, and `run_id`
    bytes      of all files of the release
    """

    release: int
    moved_at: str
    reason: str
    manifest: str
    layer: int | None = None
    counts: Mapping[str, Any] | None = None
    bytes: int | None = None

    @property
    def ledger(self) -> dict[str, int]:
        """Corrections by state, without the states that hold none."""
        return {state: n for state, n in (self.counts or {}).items() if state != "run_id" and n}


@dataclass(frozen=True, slots=True)
class Chapter:
    """One state of one version of a correction, and the release that brought it.

    at        when that release was made, ISO 8601, UTC
    version   digest of the content
    why       a reason code, or what the gates say
    by        digest of the version that superseded or retracted it; `by_id` its correction, if another
    file      digest of the queue file that brought it
    """

    model: str
    release: int
    at: str
    version: str
    action: str
    state: str
    why: str | None
    by: str | None
    by_id: str | None
    asserted_at: str
    subject: str
    prompt: str
    target_new: str
    source: str | None
    reason: str | None
    file: str
    evidence: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row of the queue that the next run will take in."""

    model: str
    action: str
    asserted_at: str
    subject: str
    prompt: str
    target_new: str
    source: str | None
    reason: str | None
    file: str


@dataclass(frozen=True, slots=True)
class ProbeResult(_OfRow):
    """One probe of a correction in one release: what the base said, and what the release says."""

    model: str
    release: int
    kind: str
    prompt: str
    expected: str
    says_before: str
    says_after: str
    pass_before: bool
    pass_after: bool


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known of one correction: in releases, in the queue, refused, and tested."""

    correction_id: str
    history: tuple[Chapter, ...]
    waiting: tuple[Waiting, ...]
    rejects: tuple[Reject, ...]
    probes: tuple[ProbeResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A self-contained page about one release."""

    model: str
    release: int
    html: str

    @property
    def name(self) -> str:
        """What its file is called where nobody says otherwise."""
        return f"{self.model}-{self.release}.html"

    def write(self, path: Path | str | None = None) -> Path:
        """Write the page, into the working directory unless `path` says otherwise. Raises SetupError."""
        from corrigenda.errors import SetupError

        written = Path(path or self.name)
        try:
            written.write_text(self.html, encoding="utf-8", errors="replace")
        except OSError as fault:
            raise SetupError(
                "the report cannot be written",
                remedy=f"Choose another file: {fault.strerror}",
                path=str(written),
            ) from None
        return written


@dataclass(frozen=True, slots=True)
class Signed:
    """A release that has a signature.

    signature   its key in the store
    new         False when it was signed with this key already
    """

    model: str
    release: int
    manifest: str
    signature: str
    new: bool


@dataclass(frozen=True, slots=True)
class Card:
    """A release's model card, in Markdown with front matter, and how much goes with it."""

    model: str
    release: int
    files: int
    bytes: int
    text: str


@dataclass(frozen=True, slots=True)
class ModelRun(_OfRow):
    """What a run did for one model; what does not apply is None.

    status      published, unchanged, busy, held, failed, dry run, or dry run, not registered yet
    release     the one that stands now
    taken_in    what came from the queue, in figures
    counts      corrections by state
    edits       targets `computed` and `cached`, and how many corrections fell `short`
    quarantined corrections that were sent out tonight, and why
    held, by    why nothing is published while it is held; who is at work on a model that is busy
    seconds     by stage; bytes: what a host pulls that has the release before
    error       why it failed; exit_code is what the command line would end with
    remarks     sentences for people, about what is no error
    """

    model: str
    status: str
    release: int | None = None
    layer: int | None = None
    gates: Mapping[str, Any] | None = None
    taken_in: Mapping[str, Any] | None = None
    counts: Mapping[str, Any] | None = None
    edits: Mapping[str, int] | None = None
    layers: LayerScores | None = None
    regressions: tuple[Mapping[str, Any], ...] | None = None
    quarantined: tuple[Mapping[str, Any], ...] | None = None
    held: str | None = None
    by: str | None = None
    seconds: Mapping[str, float] | None = None
    bytes: int | None = None
    error: str | None = None
    exit_code: int | None = None
    remarks: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What applies, JSON-able."""
        layers = {"layers": self.layers.to_json()} if self.layers else {}
        told = asdict(replace(self, layers=None)) | layers
        return {name: value for name, value in told.items() if value not in (None, ())}


@dataclass(frozen=True, slots=True)
class FleetRun:
    """What a run did.

    exit_code     0, or what the command line would end with: 6 when some of several models failed
    rejected      rows refused in the queue files that were read
    known_files   queue files that were known to hold nothing new, and not read
    """

    run_id: str
    exit_code: int
    models: tuple[ModelRun, ...]
    rejected: int
    known_files: int
    problems: tuple[QueueProblem, ...]

    @property
    def failed(self) -> tuple[ModelRun, ...]:
        return tuple(one for one in self.models if one.status == "failed")

    @classmethod
    def of(cls, outcome: Mapping[str, Any]) -> Self:
        """From what `pipeline.order.run_fleet` returns."""
        queue = outcome["queue"]
        return cls(
            run_id=outcome["run_id"],
            exit_code=outcome["exit_code"],
            models=tuple(map(_model_run, outcome["models"])),
            rejected=queue["rejected"],
            known_files=queue["known_files"],
            problems=tuple(QueueProblem(**row) for row in queue["problems"]),
        )

    def as_json(self) -> dict[str, Any]:
        """The run in figures, JSON-able."""
        return {
            "run_id": self.run_id,
            "exit_code": self.exit_code,
            "models": [one.as_json() for one in self.models],
            "queue": {
                "rejected": self.rejected,
                "known_files": self.known_files,
                "problems": [asdict(one) for one in self.problems],
            },
        }


def _model_run(row: Mapping[str, Any]) -> ModelRun:
    layers = row.get("layers")
    if layers is not None:
        from corrigenda.editing.localization.layer_scores import LayerScores

        layers = LayerScores.from_json(layers)
    return ModelRun.of({**row, "layers": layers, "remarks": tuple(remarks_on(row))})
