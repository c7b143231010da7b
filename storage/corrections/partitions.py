"""What the folders of a file say: columns of a Hive partition, or that the file belongs to a table format.

`action=retract/part-0.parquet` is a file of retracts, though no column in it says so. A Delta or Iceberg
folder holds rows that its own log has deleted: only that format's reader knows which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from corrigenda.storage.corrections.conform import conform
from corrigenda.storage.corrections.schemas import CORRECTIONS

_NOTHING = "__HIVE_DEFAULT_PARTITION__"


def said_by_folders(key: str) -> dict[str, str | None]:
    """The columns of CORRECTIONS that a key's folders name, with their values."""
    pairs = [folder.partition("=") for folder in key.split("/")[:-1] if "=" in folder]
    values = {unquote(name).strip().lower(): unquote(value) for name, _, value in pairs}
    return {
        name: None if value in (_NOTHING, "") else value
        for name, value in values.items()
        if name in CORRECTIONS.names
    }


def with_columns(batch: pa.RecordBatch, said: Mapping[str, str | None]) -> pa.RecordBatch:
    """The batch with the columns that its folders say; one that it has already stays as it is."""
    for name, value in said.items():
        if name not in batch.schema.names:
            column = pa.array([value] * len(batch), pa.string())
            batch = batch.append_column(pa.field(name, pa.string()), column)
    return batch


def contradicted(batch: pa.RecordBatch, said: Mapping[str, str | None]) -> str | None:
    """The first column that says otherwise than the folder does; None when all agree."""
    for name, value in said.items():
        if name in batch.schema.names:
            kind = CORRECTIONS.field(name).type
            folder = conform(pa.array([value], pa.string()), kind).values[0]
            here = conform(batch.column(name), kind).values
            agrees = pc.equal(here, folder) if folder.is_valid else here.is_null()
            if not pc.all(pc.fill_null(agrees, False)).as_py():
                return name
    return None


def table_folders(keys: Iterable[str]) -> dict[str, str]:
    """Folders that belong to a table format, each ending with `/` (empty: the queue itself), and its name."""
    found = {}
    for key in keys:
        parts = key.split("/")
        for place, part in enumerate(parts[:-1]):
            kind = "Delta" if part == "_delta_log" else None
            if part == "metadata" and key.endswith(".metadata.json"):
                kind = "Iceberg"
            if kind:
                found["".join(f"{folder}/" for folder in parts[:place])] = kind
    return found
