"""Releases to a Hugging Face hub: one commit that holds the whole release and its card, and a tag.

What the hub has already is not sent again: its client compares digests. Needs `corrigenda[hub]`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corrigenda.errors import CorrigendaError, NotFoundError, SetupError, StorageError, UsageError
from corrigenda.storage.delivery import card
from corrigenda.storage.releases.manifests import Release

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Loaders that find such a file in the repository may prefer it to the release's shards.
_WEIGHTS = (".safetensors", ".bin", ".h5", ".msgpack", ".gguf", ".safetensors.index.json")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did. `removed`: weights that the repository held and the release has not."""

    release: Release
    url: str
    commit: str
    tag: str
    removed: tuple[str, ...]


def client(token: str | None = None) -> HfApi:
    """The hub's client, as the environment configures it. Raises SetupError without the extra."""
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise SetupError(
            "pushing needs an extra that is not installed here",
            remedy="Run `pip install 'corrigenda[hub]'`",
            missing="huggingface_hub",
        ) from None
    return HfApi(token=token, library_name="corrigenda")


def check_repository(name: str) -> str:
    """`name` itself when it is OWNER/NAME. Raises UsageError."""
    parts = name.split("/")
    if len(parts) != 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise UsageError("this is no repository of a hub", remedy="Give OWNER/NAME", repository=name)
    return name


def push(
    api: HfApi, release: Release, directory: Path, text: str, repository: str, *, private: bool = False
) -> Pushed:
    """Make the repository's main branch the release, and tag it `release-N`.

    directory   the pulled release
    text        its card, which takes the place of the base's
    private     when the repository has to be made

    Doing it twice is doing it once. Raises SetupError (no right, no answer), NotFoundError, UsageError.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    with _explained(repository):
        url = api.create_repo(check_repository(repository), private=private, exist_ok=True)
        files = {path: directory / path for path in release.files if path != card.NAME}
        stale = sorted(
            name for name in api.list_repo_files(repository) if name.endswith(_WEIGHTS) and name not in files
        )
        operations: list[Any] = [CommitOperationAdd(card.NAME, text.encode())]
        operations += [CommitOperationAdd(path, str(where)) for path, where in sorted(files.items())]
        operations += [CommitOperationDelete(name) for name in stale]
        tag = f"release-{release.number}"
        message = f"{release.model}, release {release.number}"
        done = api.create_commit(repository, operations, commit_message=message)
        api.create_tag(repository, tag=tag, revision=done.oid, exist_ok=True)
    return Pushed(release, str(url), done.oid, tag, tuple(stale))


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """Turn the client's errors into ours, with what to do."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

    try:
        yield
    except RepositoryNotFoundError as fault:
        raise NotFoundError(
            "the hub shows no such repository to this token",
            remedy="Check the name, and that the token may write there",
            repository=repository,
        ) from fault
    except (HfHubHTTPError, LocalTokenNotFoundError) as fault:
        status = getattr(getattr(fault, "response", None), "status_code", 0)
        if status >= 500:
            raise _failed(repository, fault) from fault
        raise SetupError(
            "the hub refuses",
            remedy="Log in with `hf auth login`, or set HF_TOKEN to a token that may write there",
            repository=repository,
            said=str(fault).splitlines()[0][:200],
        ) from fault
    except CorrigendaError:
        raise
    except Exception as fault:  # its client has a dozen kinds for a line that broke
        raise _failed(repository, fault) from fault


def _failed(repository: str, fault: Exception) -> StorageError:
    return StorageError(
        "the release could not be pushed",
        remedy="Check the network and HF_ENDPOINT, then run the same command again: nothing is visible "
        "before the one commit, and what was sent is not sent again",
        repository=repository,
        cause=f"{type(fault).__name__}: {fault}"[:200],
    )
