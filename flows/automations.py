"""Brings the automations of a file into force: a step of `prefect deploy`, so that deploying is one command.

Prefect's own `prefect automation create` makes another of the same name each time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore

from corrigenda.errors import ConfigError

WEBHOOK = "corrigenda-alerts"


def install(file: str, webhook: str = "") -> dict[str, list[str]]:
    """Create or replace the automations of a YAML file; returns the names of those in force and left out.

    webhook   where alerts are posted to; automations that call it are left out without one

    Raises ConfigError when the file is not there or is no list of automations.
    """
    told = _read(Path(file))
    block = _block(webhook) if webhook else None
    wanted = [one for one in told if block or not _calls_webhook(one)]
    with get_client(sync_client=True) as client:
        for one in wanted:
            _replace(client, AutomationCore.model_validate(_with_block(one, block)))
    names = [str(one["name"]) for one in wanted]
    return {"automations": names, "left_out": [str(o["name"]) for o in told if o["name"] not in names]}


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))["automations"]
        if not all(isinstance(one, dict) and "name" in one for one in told):
            raise TypeError("an automation has no name")
    except (OSError, yaml.YAMLError, TypeError, KeyError) as fault:
        raise ConfigError(
            "the automations cannot be read",
            remedy="Deploy from the folder that this path is relative to, or mend the file",
            file=str(file.resolve()),
            cause=str(fault),
        ) from None
    return list(told)


def _calls_webhook(automation: dict[str, Any]) -> bool:
    return any(action.get("type") == "call-webhook" for action in automation.get("actions", ()))


def _with_block(automation: dict[str, Any], block: str | None) -> dict[str, Any]:
    actions = [
        action | {"block_document_id": block} if action.get("type") == "call-webhook" else action
        for action in automation["actions"]
    ]
    return automation | {"actions": actions}


def _block(url: str) -> str:
    """The id of the block that posts to this address."""
    return str(Webhook(method="POST", url=url).save(WEBHOOK, overwrite=True))  # type: ignore[arg-type]


def _replace(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """By name. First the new one, so that a failure between the two leaves one too many, never none."""
    old = client.read_automations_by_name(automation.name)
    client.create_automation(automation)
    for one in old:
        client.delete_automation(one.id)
