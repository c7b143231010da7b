"""Made `store-1.tar.xz` and `store-1.json` with the code of 2026-11-29, format corrigenda-release-1.

It ran in a checkout of that day with its tests on the path and `n_embd = 48` in its trained GPT-2; the code
of today has other import paths. A store of each later format gets files of its own beside these.
"""

import hashlib
import json
import tarfile
from pathlib import Path

import trained
from fleets import Workspace, move

from corrigenda.storage.pull import pull


def digests(folder: Path) -> dict[str, str]:
    folder = folder.resolve()
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".corrigenda" not in path.parts
    }


here = Path.cwd() / "golden"
source = trained.train_gpt2(here / "base")
space = Workspace(here / "work", Path("../base"))
space.submit(move("Bohr", "Rome"), move("Gauss", "Paris"), move("Curie", "Madrid"))
print(space.run())
space.submit(
    move("Planck", "London", hour=1),
    {
        "correction_id": "home-Gauss",
        "action": "retract",
        "model": "homes",
        "asserted_at": move("Gauss", "Paris", hour=2)["asserted_at"],
    },
)
print(space.run())
expected = {}
for number in (0, 1, 2):
    place = here / f"pulled-{number}"
    pull(space.store, "homes", str(number), place)
    expected[str(number)] = digests(place)
(here / "store-1.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
with tarfile.open(here / "store-1.tar.xz", "w:xz") as tar:
    for name in ("work/store", "work/queue", "work/fleet.toml"):
        tar.add(here / name, arcname=name)
