"""Prints constraints: the installed version of everything that corrigenda[pipeline,dev] needs.

Walks the declared requirements from the project itself, so that a tool which happens to be installed
beside them is not pinned. Local version labels (`+cpu`) are dropped: `==2.13.0` accepts them all.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = {"pipeline", "dev"}


def closure(name: str, extras: set[str], seen: dict[str, set[str]]) -> None:
    """Add `name` and all that it needs to `seen`, which maps a distribution to the extras walked."""
    done = seen.setdefault(name, set())
    if done and extras <= done:
        return
    done |= extras | {""}
    for line in distribution(name).requires or ():
        need = Requirement(line)
        if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in done):
            continue
        try:
            distribution(need.name)
        except PackageNotFoundError:
            continue  # for another platform or an optional accelerator
        closure(canonicalize_name(need.name), set(need.extras) or {""}, seen)


def main() -> None:
    seen: dict[str, set[str]] = {}
    closure("corrigenda", EXTRAS, seen)
    print(
        "# Written by `make lock`: what the tests passed with. torch has CPU and CUDA builds of one version."
    )
    for name in sorted(set(seen) - {"corrigenda"}):
        print(f"{name}=={distribution(name).version.partition('+')[0]}")


if __name__ == "__main__":
    main()
