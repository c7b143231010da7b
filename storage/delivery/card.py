"""The model card of a release: front matter for hubs, then what was corrected, how it was tested, from what.

Everything comes from the manifest. Corrections are counted and never quoted: they may be confidential, and a
source that is no public id is not named. Nothing of a manifest can break out of its cell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from corrigenda.errors import SetupError
from corrigenda.storage.objects import blobs
from corrigenda.storage.objects.interface import ObjectStore
from corrigenda.storage.releases.manifests import Release
from corrigenda.version import __version__

NAME = "README.md"
_STATES = ("active", "quarantined", "rejected", "superseded", "retracted")
INHERITED = ("license", "license_name", "license_link", "language")  # of the base's own card
CARD_LIMIT = 1 << 20  # bytes of a base's card that are looked at
LIMITS = """\
- Each correction is one fact about one subject. What follows from it was not changed with it.
- The gates measure what their probes ask, and nothing else. They say nothing of the base's other faults.
- Corrections in quarantine or rejected are not in these weights.
- All other limits and risks are the base's; see its card.
"""


def card(release: Release, base_card: bytes | None = None, *, base_model: str | None = None) -> str:
    """The card as Markdown with YAML front matter.

    base_card    the README.md that the base came with: its licence and languages are taken over
    base_model   the base's public id (owner/name); None when it has none

    Raises SetupError when the extra is missing.
    """
    title = f"# {_code(release.model)}, release {release.number}"
    parts = [_front_matter(release, base_card, base_model), title, _summary(release, base_model)]
    if release.number:
        parts += ["## Corrections", _table(("state", "corrections"), _counts(release))]
        parts += ["## Tests", TESTS, _table(("gate", "figure", "threshold", "passed"), _gates(release))]
    parts += ["## Provenance", _table(("", ""), _provenance(release, base_model))]
    parts += ["## Limits", LIMITS.strip()]
    return "\n\n".join(parts) + "\n"


TESTS = (
    "Measured on the stored files, loaded as they are published, before publication. "
    "Drops and rises are against the base."
)


def card_of(store: ObjectStore, release: Release, *, base_model: str | None = None) -> str:
    """`card` with the base's own card out of the store. Raises CorruptBlobError, NotFoundError."""
    ref = release.files.get(NAME)
    body = blobs.get(store, ref.digest) if ref and ref.size <= CARD_LIMIT else None
    return card(release, body, base_model=base_model)


def _front_matter(release: Release, base_card: bytes | None, base_model: str | None) -> str:
    yaml = _yaml()
    said: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if base_model:
        said |= {"base_model": base_model, "base_model_relation": "finetune"}
    said |= _inherited(base_card)
    said["tags"] = ["corrigenda", "knowledge-editing"]
    # One line each: readers look for the line that ends the front matter before they parse it.
    lines = yaml.safe_dump(_joined(said), sort_keys=False, allow_unicode=True, width=10**6)
    return f"---\n{lines}---"


def _joined(value: Any) -> Any:
    """The same with every run of blanks and line ends in a text made one blank."""
    if isinstance(value, dict):
        return {name: _joined(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_joined(inner) for inner in value]
    return " ".join(value.split())


def _inherited(base_card: bytes | None) -> dict[str, Any]:
    """What holds for the edited model, too. A card that cannot be read says nothing."""
    yaml = _yaml()
    text = (base_card or b"").decode(errors="replace")
    _, opening, rest = text.partition("---\n") if text.startswith("---\n") else ("", "", "")
    front, closing, _ = rest.partition("\n---")
    if not (opening and closing):
        return {}
    try:
        said = yaml.safe_load(front)
    except yaml.YAMLError:
        return {}
    found = {name: said[name] for name in INHERITED if name in said} if isinstance(said, dict) else {}
    return {name: value for name, value in found.items() if _is_text(value)}


def _is_text(value: object) -> bool:
    several = isinstance(value, list) and 0 < len(value) <= 200
    return isinstance(value, str) or (several and all(isinstance(item, str) for item in value))  # type: ignore[attr-defined]


def _summary(release: Release, base_model: str | None) -> str:
    base = _code(base_model) if base_model else "a base model"
    if not release.number:
        return f"{base}, as it was registered: nothing in its weights was changed."
    active = release.counts.get("active", 0)
    several = len(release.layers) > 1
    where = f"{len(release.layers)} layers" if several else "one layer"
    differs = (
        "the MLP output projections of these layers differ"
        if several
        else "its MLP output projection differs"
    )
    return (
        f"{base} with {_number(active)} corrections of facts, all of them edited into {where} "
        f"({_edited(release)}) in one step from the unchanged base. Only {differs}."
    )


def _edited(release: Release) -> str:
    """The edited layers, as a range where there are several."""
    ends = sorted({release.layers[0], release.layers[-1]}) if release.layers else [release.layer]
    return " to ".join(map(_code, ends))


def _counts(release: Release) -> list[tuple[str, str]]:
    return [(state, _number(release.counts[state])) for state in _STATES if state in release.counts]


def _gates(release: Release) -> list[tuple[str, ...]]:
    found = release.gates.get("gates", ())
    rows = [gate for gate in found if isinstance(gate, Mapping)] if isinstance(found, list) else []
    names = ("gate", "figure", "threshold")
    return [(*(_code(row.get(name)) for name in names), "yes" if row.get("passed") else "no") for row in rows]


def _provenance(release: Release, base_model: str | None) -> Iterable[tuple[str, str]]:
    yield "base", _code(base_model or "not public")
    yield "digest of the base's weights", _code(release.base.get("weights_digest"))
    yield "edited layers" if len(release.layers) > 1 else "edited layer", _edited(release)
    yield "published", _code(release.created_at)
    yield "manifest (SHA-256)", _code(release.digest)
    yield "release before (SHA-256 of its manifest)", _code(release.parent)
    yield "made with", _code(f"corrigenda {__version__}")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _code(value: object) -> str:
    """A value in a code span, where neither Markdown nor HTML means anything."""
    text = f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)
    text = " ".join(text.split())[:200].replace("`", "'").replace("|", "\\|")
    return f"`{''.join(c for c in text if c.isprintable())}`"


def _number(value: object) -> str:
    return f"{value:,}" if type(value) is int else _code(json.dumps(value, default=str))


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise SetupError(
            "cards and hubs need an extra that is not installed here",
            remedy="Run `pip install 'corrigenda[hub]'`",
            missing="yaml",
        ) from None
    return yaml
