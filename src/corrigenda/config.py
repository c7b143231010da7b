"""The fleet's configuration: `fleet.toml`, overridden by `CORRIGENDA_…` environment variables.

Settings are frozen and checked; the parts that can change a published weight have a digest, which is in
every cache key. All faults of a file are reported at once.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from corrigenda import config_faults
from corrigenda.errors import ConfigError, NotFoundError
from corrigenda.settings import Corpus, Editing, Frozen, Localization


class Location(Frozen):
    """Where objects lie: a directory, or s3://bucket/prefix with the settings of its server."""

    url: str = Field(description="a directory, or s3://bucket/prefix")
    endpoint_url: str | None = Field(default=None, description="of an S3-compatible server")
    region: str | None = Field(default=None, description="of the bucket; else as boto3's surroundings say")
    access_key: str | None = Field(default=None, repr=False, description="better from boto3's surroundings")
    secret_key: str | None = Field(default=None, repr=False, description="better from boto3's surroundings")
    request_checksums: Literal["when_supported", "when_required"] = Field(
        default="when_supported",
        description="`when_required` for servers without the newer checksums",
    )


class Gates(Frozen):
    """Thresholds that a candidate must pass before anyone sees it. Shares, not per cent."""

    min_said: float = Field(default=0.85, ge=0, le=1, description="of plain prompts, by whole words")
    min_chat: float = Field(default=0.50, ge=0, le=1, description="of questions in the model's chat template")
    min_paraphrase: float = Field(default=0.70, ge=0, le=1)
    max_locality_drop: float = Field(default=0.02, ge=0, le=1)
    max_fixed_drop: float = Field(default=0.02, ge=0, le=1)  # of the model's own probes
    max_capability_drop: float = Field(default=0.02, ge=0, le=1, description="of items, paired with the base")
    max_perplexity_rise: float = Field(default=0.02, ge=0)
    max_drift_nats: float = Field(default=0.10, ge=0)
    max_rounds: int = Field(default=3, ge=1, le=10)

    @model_validator(mode="before")
    @classmethod
    def _has_a_new_name(cls, given: Any) -> Any:
        """What greedy decoding says was called efficacy, which in the field is another figure (ES)."""
        if isinstance(given, dict) and "min_efficacy" in given:
            raise ValueError("`min_efficacy` is `min_said` now, and counts whole words")
        return given


class Capability(Frozen):
    """What a candidate must still be able to do that has nothing to do with its corrections."""

    items: str = Field(
        default="built-in",
        description="a Parquet file with `prompt`, `expected`, `other`; `built-in`: corrigenda's own; `none`",
    )
    command: str | None = Field(
        default=None,
        description="run on the candidate's directory and on the base's; prints a JSON object of numbers",
    )
    max_drop: float = Field(default=0.01, ge=0, description="of any number that the command prints")
    timeout: float = Field(default=3_600, gt=0, description="seconds that the command may take")


# How a release lies in the store besides its blobs. hf: as a whole Hugging Face directory.
Layout = Literal["hf"]


class Signing(Frozen):
    """Who publishes, and whose releases are trusted. Paths of PEM files, taken from the file's own folder."""

    key: Path | tuple[Path, ...] | None = Field(
        default=None, description="private: it signs every release; several while keys change"
    )
    password: str | None = Field(
        default=None, repr=False, description="of the keys; better as CORRIGENDA_SIGNING__PASSWORD"
    )
    passwords: tuple[str | None, ...] = Field(
        default=(), repr=False, description="of the keys one by one, where they differ"
    )
    public_keys: tuple[Path, ...] = Field(
        default=(), description="`pull` and `run` take only what one of them has signed"
    )
    valid_days: float | None = Field(
        default=None, gt=0, description="hosts refuse a `latest` that was signed longer ago"
    )

    @property
    def private_keys(self) -> list[tuple[Path, str | None]]:
        """The private keys, each with its password."""
        keys = self.key if isinstance(self.key, tuple) else (self.key,) if self.key else ()
        passwords = (*self.passwords, *[self.password] * len(keys))
        return list(zip(keys, passwords, strict=False))


# In what a network is loaded and computes. auto: on a CPU float32, elsewhere as the base is stored.
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Defaults(Frozen):
    """What holds for every model that says nothing else."""

    device: str = Field(default="auto", description="cpu, cuda, cuda:1, mps; auto: a GPU, else the CPU")
    dtype: Dtype = Field(
        default="auto", description="of the arithmetic; what is published keeps the base's own"
    )
    layouts: tuple[Layout, ...] = Field(
        default=(), description="`hf`: each release also lies in the store as a whole Hugging Face directory"
    )
    gates: Gates = Gates()
    localization: Localization = Localization()
    editing: Editing = Editing()
    covariance: Corpus = Corpus()
    drift: Corpus = Corpus(tokens=2_048, seed=1)
    capability: Capability = Capability()


class Scale(Frozen):
    """Where the models' nights run. The releases are the same, wherever that is."""

    engine: Literal["here", "processes", "dask", "ray", "work-pool"] = Field(
        default="here",
        description="one after the other in this process; each in one of its own; as tasks of a cluster; "
        "each as a run of the per-model deployment, on the pool that it stands on",
    )
    at_once: int = Field(default=1, ge=1, description="models under way; `here` it is always one")
    address: str | None = Field(default=None, description="dask, ray: of the cluster; else a local one")
    deployment: str = Field(default="maintain-model/one-model", description="work-pool: of one model's night")
    limit_hours: float = Field(
        default=24, gt=0, description="work-pool: a night without an outcome by then has failed"
    )

    @property
    def threads(self) -> int:
        return 1 if self.engine == "here" else self.at_once


class FamilyFields(Frozen):
    """Module paths of an architecture that is not recognised, as `models.families.Family` explains them."""

    layers: str | None = Field(default=None, description="the list of blocks, such as `model.layers`")
    projection: str | None = Field(default=None, description="of a block's MLP, such as `mlp.down_proj`")
    post_norm: str | None = Field(default=None, description="a norm behind it, within the block")
    gain: float | None = Field(default=None, description="what the block multiplies its output by")
    stored_transposed: bool | None = Field(default=None, description="whether the weight lies as (in, out)")


class ModelEntry(Frozen):
    """One model of the fleet. A section here overrides the defaults' section field by field."""

    name: str = Field(description="what it is called here, in the store and by `pull`")
    source: str = Field(description="a hub id, a directory, s3://…, a .gguf file, or demo:NAME")
    tags: tuple[str, ...] = Field(default=(), description="corrections for `tag:NAME` mean it")
    device: str | None = Field(default=None, description="else the defaults'")
    dtype: Dtype | None = Field(default=None, description="else the defaults'")
    family: FamilyFields = Field(
        default=FamilyFields(), description="for an architecture that is not recognised"
    )
    probes: str | None = Field(
        default=None, description="its own probes: a Parquet file with `prompt`, `expected`, `other`"
    )
    system_prompt: str | None = Field(
        default=None, description="under which it is served in chats; else its template's own"
    )
    layouts: tuple[Layout, ...] | None = Field(default=None, description="else the defaults'")
    deployment: str | None = Field(
        default=None, description="scale.engine `work-pool`: where its nights run; else as for all"
    )
    gates: dict[str, Any] = Field(default={}, description="laid over `defaults.gates`")
    localization: dict[str, Any] = Field(default={}, description="laid over `defaults.localization`")
    editing: dict[str, Any] = Field(default={}, description="laid over `defaults.editing`")
    covariance: dict[str, Any] = Field(default={}, description="laid over `defaults.covariance`")
    drift: dict[str, Any] = Field(default={}, description="laid over `defaults.drift`")
    capability: dict[str, Any] = Field(default={}, description="laid over `defaults.capability`")

    @field_validator("name")
    @classmethod
    def _is_a_path_part(cls, name: str) -> str:
        if not name or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
            raise ValueError("may hold letters, digits, '-', '_' and '.', and not start with '.'")
        return name


# Sections of the defaults that a model may have of its own.
SECTIONS = ("gates", "localization", "editing", "covariance", "drift", "capability")


class FleetConfig(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix="CORRIGENDA_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    store: Location
    queue: Location
    signing: Signing = Signing()
    scale: Scale = Scale()
    defaults: Defaults = Defaults()
    models: tuple[ModelEntry, ...] = ()
    root: Path = Field(default=Path(), exclude=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _check(self) -> FleetConfig:
        names = [entry.name for entry in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"models named more than once: {', '.join(twice)}")
        if overlap(self.store, self.queue, self.root):
            raise ValueError("store and queue must lie apart: one of them is, or is inside of, the other")
        faults = [fault for entry in self.models for fault in self._faults_of(entry)]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _faults_of(self, entry: ModelEntry) -> list[str]:
        """What is wrong with a model's own sections, each said by itself and under the model's name."""
        found: list[str] = []
        for section in SECTIONS:
            base = getattr(self.defaults, section)
            try:
                type(base).model_validate(_laid_over(base.model_dump(), getattr(entry, section)))
            except ValidationError as faults:
                found += config_faults.of_model(faults, entry.name, section, type(base))
        return found

    def model(self, name: str) -> ModelEntry:
        """The entry of that name. Raises NotFoundError, which lists what there is."""
        for entry in self.models:
            if entry.name == name:
                return entry
        raise NotFoundError(
            "no such model in the fleet",
            remedy=near(name, (entry.name for entry in self.models))
            + "Name one of the models listed, or add a [[models]] section to fleet.toml",
            model=name,
            models=[entry.name for entry in self.models],
        )

    def settings_of(self, entry: ModelEntry) -> Defaults:
        """The defaults with the model's own sections laid over them."""
        own: dict[str, Any] = {
            section: _laid_over(getattr(self.defaults, section).model_dump(), getattr(entry, section))
            for section in SECTIONS
        }
        for name in ("device", "dtype", "layouts"):
            wanted = getattr(entry, name)
            own[name] = getattr(self.defaults, name) if wanted is None else wanted
        return Defaults(**own)

    def matching(self, selector: str) -> list[str]:
        """Names of the models that a correction's `model` column means: a name, glob or tag."""
        return [e.name for e in self.models if selects(selector, e.name, e.tags)]


def _laid_over(section: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A section with a model's own values, field by field also within a section of it. What is of another
    kind (a descent) is replaced whole: nothing of the one kind is meant for the other."""
    laid = dict(section)
    for name, value in own.items():
        under = laid.get(name)
        if not isinstance(value, dict) or not isinstance(under, dict):
            laid[name] = value
            continue
        same = value.get("kind", under.get("kind")) == under.get("kind")
        laid[name] = _laid_over(under, value) if same else value
    return laid


def overlap(one: Location, other: Location, root: Path) -> bool:
    """Whether one place is the other, or inside of it. Relative directories are taken from `root`."""
    first, second = (_parts(place, root) for place in (one, other))
    short = min(len(first), len(second))
    return first[:short] == second[:short]


def _parts(place: Location, root: Path) -> tuple[str, ...]:
    """The folders that lead to a place, from the outermost one."""
    if place.url.startswith("s3://"):
        names = place.url.removeprefix("s3://").strip("/").split("/")
        return ("s3", place.endpoint_url or "", *names)
    path = root / Path(place.url.removeprefix("file://")).expanduser()
    return path.resolve().parts


def selects(selector: str, name: str, tags: Iterable[str]) -> bool:
    """Whether `selector` (a name, a glob, or `tag:NAME`) means the model `name`."""
    if selector.startswith("tag:"):
        return selector.removeprefix("tag:") in tags
    return fnmatchcase(name, selector)


def _in_parents(path: Path) -> Path:
    if path.exists() or path.name != str(path):
        return path
    return next((found for up in Path.cwd().parents if (found := up / path).is_file()), path)


def near(name: str, names: Iterable[str]) -> str:
    """`Did you mean …? ` when one of the names is like it, else nothing."""
    like = difflib.get_close_matches(name, list(names), 1)
    return f"Did you mean {like[0]}? " if like else ""


def load_fleet(path: Path) -> FleetConfig:
    """Read a configuration. Relative directories are taken from the file's own folder.

    path   a bare name that is not in the working directory is looked for in the folders above it

    Raises ConfigError with all faults at once.
    """
    path = _in_parents(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            "there is no configuration",
            remedy="Run inside a workspace, pass --config, or make one with `corrigenda init`",
            path=str(path),
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as fault:
        raise ConfigError("the configuration cannot be read", remedy=str(fault), path=str(path)) from None
    try:
        return FleetConfig(**raw, root=path.resolve().parent)
    except ValidationError as faults:
        names = [str(one.get("name")) for one in raw.get("models", ()) if isinstance(one, dict)]
        listed = "; ".join(config_faults.told(faults, FleetConfig, names))
        raise ConfigError("the configuration is wrong", remedy=f"Mend: {listed}", path=str(path)) from None
