"""Where benchmarks find their data: a folder that an environment variable names; it is never ours to ship."""

from __future__ import annotations

import os
from pathlib import Path

from corrigenda.errors import NotFoundError

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = "CORRIGENDA_BENCH_DATA"
UPSTREAM = {
    "counterfact": "CounterFact (Meng et al. 2022), as rows of subject, prompt, target_new, target_true, "
    "paraphrase_prompts, neighborhood_prompts",
    "wikitext": "WikiText-2 (Merity et al. 2016), one column `text`",
}


def folder() -> Path:
    """The folder that the variable names, or `shared/data` beside the checkout."""
    return Path(os.environ.get(VARIABLE, ROOT.parent / "shared" / "data")).expanduser()


def data_file(name: str) -> Path:
    """A file of benchmark data. Raises NotFoundError, which says where it was looked for, and what it is."""
    path = folder() / name
    if path.is_file():
        return path
    raise NotFoundError(
        "a file of benchmark data is not here",
        remedy=f"Set {VARIABLE} to a folder that holds it; benchmarks that take --data or --file need none",
        file=str(path),
        holds=next((said for kind, said in UPSTREAM.items() if name.startswith(kind)), "see the benchmark"),
    )
