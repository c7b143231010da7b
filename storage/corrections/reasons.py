"""Why rows and files are not taken, and what to do about each: the codes, their remedies, and words for
types.

The one list from which rejects, the queue's problems and the documentation come.
"""

from __future__ import annotations

import pyarrow as pa

from corrigenda.storage.corrections.schemas import NEIGHBOUR, TIME

REMEDIES: dict[str, str] = {
    "wrong_type": "Write this column with the type of the documentation's table; text must be UTF-8",
    "unknown_action": "Write `upsert` or `retract`, or leave the column out",
    "missing_value": "Fill this column in; blanks alone do not count",
    "no_slot": "Put exactly one `{}` where the subject goes",
    "many_slots": "Leave exactly one `{}` and write the rest of the prompt out",
    "too_long": "Shorten it: this is a text, not a fact (the documentation's table has the limits)",
    "subject_not_in_prompt": "Spell the subject alike in both, or put `{}` in its place",
    "subject_inside_word": "Put `{}` where the subject goes: it stands only inside of other words",
    "literal_braces": "Write this `{}` otherwise: it means the subject, which stands beside it",
    "unknown_shape": "Give this record the same fields as the others",
    "no_object": "Write one JSON object per correction",
    "broken_json": "Write this line again as one JSON object, complete",
    "name_twice": "Keep each name once in an object: readers of JSON disagree on which value holds",
    "too_many_cells": "Put quotes around a text that holds the delimiter: there are more cells than columns",
    "too_few_cells": "Write a cell for each column of the header, empty ones too",
    "broken_quotes": 'Close each quote; inside of a text write it as "", not \\"; lines it swallows count',
    "swallowed_rows": "Close the quote at the end of its text: this one holds the delimiters of other rows",
    "not_computed": "Let Excel compute this cell and save again, or write its value",
    "rounded_id": "Format the column as text before it is filled: a spreadsheet has rounded this number",
    "two_facts": "Give each fact its own id: these rows share one, and its time, and ask different things",
    "too_many": "Give at most 1000 entries",
    "control_character": "Remove NUL and other control characters",
    "empty_entry": "Remove the entry, or fill in its text (and the answer, for a neighbour)",
    "time_out_of_range": "Give a time between 1970 and 2200; look at the unit of the timestamp",
    "unknown_model": "Name a model of fleet.toml, a glob that matches one, or one of their tags",
    "retracted": "Give the row a later asserted_at to say it again; without a time it would undo the retract",
    "missing_column": "Add the columns, spelt as in the documentation's table",
    "duplicate_column": "Keep each column once",
    "partition_conflict": "Let the column say what the folder's name says, or leave it out of the file",
    "unreadable_file": "Write the file again, complete; it stays in the queue and is tried every time",
    "too_large": "Split it into files of fewer or shorter rows; it stays in the queue",
    "night_is_full": "Nothing: it waits for the next run, after the files before it",
    "not_parquet": "Hand it in with `corrigenda submit`, which reads CSV, JSON, JSON Lines and Excel too",
    "table_folder": "Export the table's rows as plain Parquet: its folder holds rows that were deleted since",
}


# What a column wants, and an example of it.
WANTED: dict[pa.DataType, tuple[str, str]] = {
    pa.string(): ("text", "Ada Holm"),
    TIME: ("a time (timestamp, date, or ISO 8601 text)", "2026-01-02T03:04:05Z"),
    pa.int32(): ("a whole number of 32 bits", "3"),
    pa.list_(pa.string()): ("a list of texts, or one as JSON", '["Who leads Velm?"]'),
    pa.list_(NEIGHBOUR): (
        "a list of prompt and answer, or one as JSON",
        '[{"prompt": "The mayor of Orm is", "answer": "Bo Ek"}]',
    ),
}


def wrong_type(found: str, wanted: pa.DataType) -> str:
    """The remedy for one value of a wrong type: what was found, what is wanted, an example."""
    kind, example = WANTED[wanted]
    return f"{REMEDIES['wrong_type']}: found {found}, wanted {kind}, for example {example}"
