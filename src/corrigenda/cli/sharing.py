"""`corrigenda sign` and `corrigenda push`: who published a release, and releases on a hub."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from corrigenda.cli.app import CONFIG, DEFAULT_CONFIG, JSON

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
    added: Annotated[
        bool, typer.Option("--added", help="Sign also a release with files which its base has not.")
    ] = False,
    config: CONFIG = DEFAULT_CONFIG,
    json: JSON = False,
) -> None:
    """Vouch for what was published before there was a key, or with another one.

    `corrigenda run` signs what it makes, where fleet.toml names a key, and nothing else: this is how older
    releases get a signature. Look at `corrigenda log` first. With a number it signs that release; without,
    the base, the published release, and the ref itself, on which the next run then builds. The key's password
    is taken from CORRIGENDA_SIGNING__PASSWORD.

    Examples:
      corrigenda sign smollm2-135m
      corrigenda sign smollm2-135m@3
    """
    from corrigenda.api.fleet import Fleet

    done = Fleet.open(config).sign(target, key, added=added)
    if json:
        said = {"model": done.model, "release": done.release, "manifest": done.manifest}
        print(jsonlib.dumps(said | {"signature": done.signature, "new": done.new}))
    else:
        print(f"{done.model}@{done.release}: {'signed' if done.new else 'was signed with this key already'}")


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
    from corrigenda.api.fleet import Fleet

    fleet = Fleet.open(config)
    if dry_run:
        card = fleet.card(target, repository, base_model=base_model)
        typer.echo(f"would push {card.files} files, {card.bytes:,} bytes, to {repository}", err=True)
        print(card.text, end="")
        return
    done = fleet.push(target, repository, base_model=base_model, private=private)
    release = done.release
    if json:
        said = {"model": release.model, "release": release.number, "repository": repository}
        print(jsonlib.dumps(said | {"commit": done.commit, "tag": done.tag, "removed": list(done.removed)}))
    else:
        print(f"{done.url}: {release.model}@{release.number}, commit {done.commit[:12]}, tag {done.tag}")
