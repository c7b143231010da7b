"""Schedule and flow on one machine: a server of its own, no work pool, no worker."""

from __future__ import annotations

import os
import re
from pathlib import Path
from zoneinfo import ZoneInfo

from corrigenda.errors import UsageError
from corrigenda.flows.embedded import prepare

_FIELDS = re.compile(r"[\w*/,\- #?]+", re.ASCII)


def serve(config: Path, root: Path, cron: str, timezone: str, port: int) -> None:
    """Run the fleet's flow whenever the schedule says so, each time in its own process; returns when ended.

    Raises UsageError for a schedule or a time zone that is none, SetupError as `embedded.prepare` does.
    """
    _require_schedule(cron, timezone)
    prepare(root / ".corrigenda", port)
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from corrigenda.flows.maintain_fleet import maintain_fleet

    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "60")
    maintain_fleet.serve(
        name="nightly",
        schedule=Cron(cron, timezone=timezone),
        parameters={"config": str(config.resolve())},
        tags=["corrigenda", "nightly"],
        limit=1,
        # A restart of the machine is no reason for nights to stay away.
        pause_on_shutdown=False,
        print_starting_message=False,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def _require_schedule(cron: str, timezone: str) -> None:
    """Before a server is started, which takes a while."""
    try:
        ZoneInfo(timezone)
    except (ValueError, OSError, LookupError):
        raise UsageError(
            "there is no such time zone", remedy="Write one like UTC or Europe/Berlin", timezone=timezone
        ) from None
    if len(cron.split()) != 5 or not _FIELDS.fullmatch(cron):
        raise UsageError("this is no schedule", remedy="Write five fields, as for cron", cron=cron)
