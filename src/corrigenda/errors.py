"""The error tree: what went wrong, with which values, and what to do about it.

One root, grouped by what a handler does with it. The command line turns `exit_code` into the process's
exit status, the orchestrator asks `retryable` and nothing else. `code` is what other programs match on: it is
never changed, and never used again for something else.
"""

from __future__ import annotations

from typing import Any


class CorrigendaError(Exception):
    """Root of all errors that corrigenda raises on purpose.

    what     one clause, lower case, no full stop: what is wrong
    remedy   one sentence: what to do
    facts    the values that matter, shown in parentheses and kept as a dict
    """

    code = "unexpected"
    exit_code = 1
    retryable = False

    def __init__(self, what: str, *, remedy: str, **facts: object) -> None:
        self.what, self.remedy, self.facts = what, remedy, facts
        super().__init__(what, remedy)

    def __str__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in self.facts.items())
        return f"{self.what} ({shown}). {self.remedy}" if shown else f"{self.what}. {self.remedy}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between the orchestrator's processes: pickling keeps every fact."""
        return _rebuild, (type(self), self.what, self.remedy, self.facts)


def _rebuild(
    kind: type[CorrigendaError], what: str, remedy: str, facts: dict[str, object]
) -> CorrigendaError:
    return kind(what, remedy=remedy, **facts)


class UsageError(CorrigendaError):
    """The caller asked for something that cannot be: a bad argument, setting, or input file."""

    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    """`fleet.toml` or an environment variable is wrong; all faults are reported at once."""

    code = "config"


class CorrectionsError(UsageError):
    """An input file cannot be read as corrections at all."""

    code = "corrections"


class NotFoundError(CorrigendaError):
    """A model, release, ref, correction or file that was named does not exist."""

    code = "not-found"
    exit_code = 3


class LostRaceError(CorrigendaError):
    """Another writer was first. Nothing of ours is visible; start again from the new head."""

    code = "lost-race"
    exit_code = 4


class BusyError(LostRaceError):
    """Another run is at work on the model, and does what this one was about to do."""

    code = "busy"


class HeldError(CorrigendaError):
    """The model's release is held: nothing is published until the hold is lifted."""

    code = "held"


class LostNightError(CorrigendaError):
    """A model's night that was given to another process died, and left nothing but what is in the cache."""

    code = "lost-night"


class GateError(CorrigendaError):
    """No candidate passed the gates: nothing was published, the old release stands."""

    code = "gates"
    exit_code = 5


class PartialFleetError(CorrigendaError):
    """Some models of the fleet failed; the others are done.

    The fact `outcome` is the whole run in figures, and is not shown; `failed` says which models and why.
    """

    code = "partial-fleet"
    exit_code = 6

    def __str__(self) -> str:
        failed = self.facts.get("failed", {})
        return f"{self.what} ({failed}). {self.remedy}"


class SetupError(CorrigendaError):
    """The surroundings are not as needed: permissions, missing extras, an unusable store."""

    code = "setup"
    exit_code = 7


class ObjectUnreadableError(SetupError):
    """One object of a store may not be read: archived, encrypted with a key that is gone, or denied."""

    code = "object-unreadable"


class StorageError(SetupError):
    """The object store failed; it did not land. Often transient."""

    code = "storage"
    retryable = True


class UnknownOutcomeError(StorageError):
    """It is not known whether a write landed. Nothing may be cleaned up after this."""

    code = "unknown-outcome"


class CorruptBlobError(StorageError):
    """Stored bytes do not match their digest."""

    code = "corrupt"
    retryable = False


class SignatureError(SetupError):
    """A release is not signed by a key that is trusted here, or is not what was signed."""

    code = "signature"


class EditError(CorrigendaError):
    """The mathematics of an edit cannot be carried out on these inputs."""

    code = "edit"


class UnsupportedModelError(UsageError):
    """The architecture has no single linear map per layer that could be edited."""

    code = "unsupported-model"
