"""A correction run now: the one order of stages, with or without an orchestrator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corrigenda.api.values import FleetRun
from corrigenda.config import FleetConfig, Layout


def run(
    fleet: FleetConfig,
    config: Path,
    models: Sequence[str] | None,
    *,
    dry_run: bool,
    layouts: Sequence[Layout],
    orchestrated: bool,
) -> FleetRun:
    """See `Fleet.run`."""
    for name in models or ():
        fleet.model(name)
    if orchestrated:
        from corrigenda.flows.embedded import run_flow

        return FleetRun.of(run_flow(config, fleet.root, models, dry_run=dry_run, layouts=layouts))
    from corrigenda.pipeline.elsewhere import correct
    from corrigenda.pipeline.night import open_fleet

    return FleetRun.of(correct(open_fleet(config, layouts), models, dry_run=dry_run))
