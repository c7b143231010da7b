"""The pool of proxy facts that localization draws from: the built-in one, or a file of the user's own.

A file has the columns subject, prompt (with one `{}`), target_true, target_new, and may have rephrase and
neighbour (an object with prompt and answer; in CSV the columns neighbour_prompt and neighbour_answer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from corrigenda.errors import NotFoundError, UsageError
from corrigenda.facts import Neighbour, ProxyFact, digest_of

BUILT_IN = "proxy_facts.jsonl"
REQUIRED = ("subject", "prompt", "target_true", "target_new")
_READERS = {
    ".parquet": pyarrow.parquet.read_table,
    ".csv": pyarrow.csv.read_csv,
    ".jsonl": pyarrow.json.read_json,
}


def read_proxy_facts(path: Path | None = None) -> tuple[ProxyFact, ...]:
    """The facts of a Parquet, CSV or JSON Lines file; the built-in pool without one.

    Raises NotFoundError when there is no such file, UsageError when it does not hold proxy facts.
    """
    if path is None:
        built_in = resources.files("corrigenda").joinpath("data", BUILT_IN)
        with resources.as_file(built_in) as unpacked:
            return read_proxy_facts(unpacked)
    rows = _table(path).to_pylist()
    faults = [f"row {i}: {why}" for i, row in enumerate(rows) if (why := _fault(row))]
    if faults or not rows:
        raise UsageError(
            "this file does not hold proxy facts",
            remedy=f"Mend {'; '.join(faults[:5]) or 'it: there are no rows'}. Needed: {', '.join(REQUIRED)}",
            path=str(path),
        )
    return tuple(_fact(row) for row in rows)


def pool_digest(pool: Sequence[ProxyFact]) -> str:
    """Names the content of a pool; its order counts, because samples are drawn by position."""
    return digest_of([asdict(fact) for fact in pool])


def _table(path: Path) -> pa.Table:
    if path.suffix.lower() not in _READERS:
        raise UsageError(
            "proxy facts cannot be read from such a file",
            remedy=f"Use one of {', '.join(_READERS)}",
            path=str(path),
        )
    try:
        return _READERS[path.suffix.lower()](path)
    except FileNotFoundError:
        raise NotFoundError(
            "the file of proxy facts is not there", remedy="Check `proxy_facts`", path=str(path)
        ) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as fault:
        raise UsageError(
            "the file of proxy facts cannot be read", remedy=str(fault).splitlines()[0], path=str(path)
        ) from None


def _fault(row: Mapping[str, Any]) -> str | None:
    missing = [name for name in REQUIRED if not str(row.get(name) or "").strip()]
    if missing:
        return f"{', '.join(missing)} missing"
    return None if str(row["prompt"]).count("{}") == 1 else "prompt needs exactly one {}"


def _fact(row: Mapping[str, Any]) -> ProxyFact:
    near = row.get("neighbour") or {
        "prompt": row.get("neighbour_prompt"),
        "answer": row.get("neighbour_answer"),
    }
    whole = near.get("prompt") and near.get("answer")
    return ProxyFact(
        subject=str(row["subject"]),
        prompt=str(row["prompt"]),
        target_true=str(row["target_true"]),
        target_new=str(row["target_new"]),
        rephrase=row.get("rephrase") or None,
        neighbour=Neighbour(str(near["prompt"]), str(near["answer"])) if whole else None,
    )
