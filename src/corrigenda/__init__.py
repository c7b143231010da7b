"""corrigenda: nightly fact corrections for fleets of language models.

    import corrigenda

    fleet = corrigenda.Fleet.open("fleet.toml")
    fleet.submit("mayors.parquet")
    fleet.run()
    fleet.pull("llama-8b", "./model")

Names are imported when they are first used: neither torch nor an orchestrator comes with `import corrigenda`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from corrigenda.version import __version__ as __version__

# Where each public name lives; sorted. `TYPE_CHECKING` below is its twin for tools that read code.
_HOMES = {
    "Adapter": "storage.delivery.lora",
    "Card": "api.values",
    "Chapter": "api.values",
    "Finding": "storage.releases.doctor",
    "Fleet": "api.fleet",
    "FleetRun": "api.values",
    "FleetStatus": "api.values",
    "LayerScores": "editing.localization.layer_scores",
    "ModelRun": "api.values",
    "ModelStatus": "api.values",
    "Move": "api.values",
    "ProbeResult": "api.values",
    "Pulled": "storage.delivery.pull",
    "Pushed": "storage.delivery.hub",
    "QueueProblem": "api.values",
    "Reject": "api.values",
    "Report": "api.values",
    "Retracted": "api.values",
    "Signed": "api.values",
    "Story": "api.values",
    "Submitted": "api.values",
    "Verified": "storage.delivery.pull",
    "Waiting": "api.values",
    "check": "api.alone",
    "doctor": "api.upkeep",
    "errors": "errors",
    "export_lora": "api.alone",
    "open_store": "api.alone",
    "pull": "api.alone",
    "submit": "api.alone",
}

if TYPE_CHECKING:
    from corrigenda import errors as errors
    from corrigenda.api.alone import check as check
    from corrigenda.api.alone import export_lora as export_lora
    from corrigenda.api.alone import open_store as open_store
    from corrigenda.api.alone import pull as pull
    from corrigenda.api.alone import submit as submit
    from corrigenda.api.fleet import Fleet as Fleet
    from corrigenda.api.upkeep import doctor as doctor
    from corrigenda.api.values import Card as Card
    from corrigenda.api.values import Chapter as Chapter
    from corrigenda.api.values import FleetRun as FleetRun
    from corrigenda.api.values import FleetStatus as FleetStatus
    from corrigenda.api.values import ModelRun as ModelRun
    from corrigenda.api.values import ModelStatus as ModelStatus
    from corrigenda.api.values import Move as Move
    from corrigenda.api.values import ProbeResult as ProbeResult
    from corrigenda.api.values import QueueProblem as QueueProblem
    from corrigenda.api.values import Reject as Reject
    from corrigenda.api.values import Report as Report
    from corrigenda.api.values import Retracted as Retracted
    from corrigenda.api.values import Signed as Signed
    from corrigenda.api.values import Story as Story
    from corrigenda.api.values import Submitted as Submitted
    from corrigenda.api.values import Waiting as Waiting
    from corrigenda.editing.localization.layer_scores import LayerScores as LayerScores
    from corrigenda.storage.delivery.hub import Pushed as Pushed
    from corrigenda.storage.delivery.lora import Adapter as Adapter
    from corrigenda.storage.delivery.pull import Pulled as Pulled
    from corrigenda.storage.delivery.pull import Verified as Verified
    from corrigenda.storage.releases.doctor import Finding as Finding


def public_names() -> list[str]:
    """The names that this package promises, sorted; docs/reference/api.md has them all."""
    return list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOMES[name]}")
    return home if name == _HOMES[name] else getattr(home, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
