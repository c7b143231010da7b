"""`corrigenda sign` and `corrigenda push`: who published a release, and releases on a hub."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON

if TYPE_CHECKING:
    from corrigenda.config import Fleet
    from corrigenda.storage.objects.interface import ObjectStore
    from corrigenda.storage.releases.manifests import Release

TARGET = Annotated[
    str,
    typer.Argument(metavar="MODEL[@REF]", help="REF: latest (default), canary, or a number. 0 is the base."),
]


def register(app: typer.Typer) -> None:
    app.command("sign")(sign)
    app.command("push")(push)


def sign(
    target: TARGET,
    key: Annotated[
        Path | None, typer.Option(help="The private key (PEM), instead of fleet.toml's.", show_default=False)
    ] = None,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Sign a release that was published without a key, or with another one.

    `corrigenda run` signs by itself where fleet.toml names a key. The key's password is taken from
    CORRIGENDA_SIGNING__PASSWORD.

    Example:
      corrigenda sign smollm2-135m@3
    """
    from corrigenda.errors import UsageError
    from corrigenda.storage.releases import layouts, signatures

    fleet, store, release = _resolved(target, config)
    chosen = key or (fleet.signing.key and fleet.root / fleet.signing.key)
    if chosen is None:
        raise UsageError(
            "there is no key to sign with", remedy="Give --key, or set `key` under [signing] in fleet.toml"
        )
    made = signatures.keep(store, release, signatures.SigningKey(chosen, fleet.signing.password))
    if layouts.is_whole(store, release):
        layouts.assemble(store, release)
    if json:
        said = {"model": release.model, "release": release.number, "manifest": release.digest}
        print(jsonlib.dumps(said | {"signature": signatures.key(release), "new": made}))
    else:
        print(f"{release.model}@{release.number}: {'signed' if made else 'was signed with this key already'}")


def push(
    target: TARGET,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.")],
    base_model: Annotated[
        str | None,
        typer.Option(
            help="The base's id on the hub, where fleet.toml's `source` is none.", show_default=False
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="If the repository has to be made, make it private.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the model card, and send nothing.")
    ] = False,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Put a release and its model card on a Hugging Face hub, in one commit with a tag.

    Needs `corrigenda[hub]` and a token that may write (`hf auth login`, or HF_TOKEN).

    Examples:
      corrigenda push smollm2-135m acme/smollm2-135m-corrected --dry-run
      corrigenda push smollm2-135m@3 acme/smollm2-135m-corrected --private
    """
    from corrigenda.models.sources import cache_home, hub_id_of
    from corrigenda.storage.delivery import card, hub
    from corrigenda.storage.delivery.pull import materialise
    from corrigenda.storage.releases import signatures

    for name in (repository, base_model):
        if name is not None:
            hub.check_repository(name)
    fleet, store, release = _resolved(target, config)
    if fleet.signing.public_keys:
        signatures.require(store, release, [fleet.root / path for path in fleet.signing.public_keys])
    base = base_model or hub_id_of(str(release.base.get("source")))
    text = card.card_of(store, release, base_model=base)
    if dry_run:
        typer.echo(
            f"would push {len(release.files)} files, {release.size:,} bytes, to {repository}", err=True
        )
        print(text, end="")
        return
    api = hub.client()
    place = cache_home() / "pushed" / release.model
    materialise(store, release, place, cache_home() / "blobs")
    done = hub.push(api, release, place, text, repository, private=private)
    if json:
        said = {"model": release.model, "release": release.number, "repository": repository}
        print(jsonlib.dumps(said | {"commit": done.commit, "tag": done.tag, "removed": list(done.removed)}))
    else:
        print(f"{done.url}: {release.model}@{release.number}, commit {done.commit[:12]}, tag {done.tag}")


def _resolved(target: str, config: Path) -> tuple[Fleet, ObjectStore, Release]:
    from corrigenda.config import load_fleet
    from corrigenda.storage.delivery.pull import parse_target, resolve
    from corrigenda.storage.objects.opening import open_store

    fleet = load_fleet(config)
    store = open_store(fleet.store, root=fleet.root)
    return fleet, store, resolve(store, *parse_target(target))
