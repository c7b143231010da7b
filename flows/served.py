"""Schedule and flow on one machine: a server of its own, no work pool, no worker."""

from __future__ import annotations

import os
from pathlib import Path

from corrigenda.errors import UsageError
from corrigenda.flows.embedded import prepare


def serve(config: Path, root: Path, cron: str, timezone: str, port: int) -> None:
    """Run the fleet's flow whenever the schedule says so, each time in its own process; returns when ended.

    Raises UsageError for a schedule or a time zone that is none, SetupError as `embedded.prepare` does.
    """
    prepare(root / ".corrigenda", port)
    from prefect.schedules import Cron
    from prefect.types.entrypoint import EntrypointType

    from corrigenda.flows.maintain_fleet import maintain_fleet

    os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "60")
    try:
        schedule = Cron(cron, timezone=timezone)
    except ValueError as fault:
        raise UsageError(
            "this is no schedule",
            remedy=f"Write five fields as for cron: {fault}",
            cron=cron,
            timezone=timezone,
        ) from None
    maintain_fleet.serve(
        name="nightly",
        schedule=schedule,
        parameters={"config": str(config.resolve())},
        tags=["corrigenda", "nightly"],
        limit=1,
        # A restart of the machine is no reason for nights to stay away.
        pause_on_shutdown=False,
        print_starting_message=False,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
