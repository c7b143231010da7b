"""Values of records as texts, and why a record cannot be turned."""

from __future__ import annotations

from datetime import date
from uuid import UUID


class RecordError(Exception):
    """Why one record cannot be turned into rows: a reason code, the field at fault, what stood there."""

    def __init__(self, reason: str, column: str, value: object = None) -> None:
        self.reason, self.column, self.value = reason, column, value
        super().__init__(reason, column)


def as_text(name: str, value: object) -> str | None:
    """Texts and whole numbers; times where a time belongs. Raises RecordError for what is no text.

    A date in the column of an answer is what a spreadsheet made of some other text. Surrogates, which JSON
    can say, are not text.
    """
    if value is None:
        return None
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, date) and name == "asserted_at":
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RecordError("wrong_type", name, value)
    text = str(value)
    if not text.isascii() and text.encode(errors="replace").decode() != text:
        raise RecordError("wrong_type", name, value)
    return text
