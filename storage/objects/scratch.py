"""A folder for what is on its way into a store, or out of it; one clear line when its disk is full."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corrigenda.errors import SetupError


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder that is gone after the block. Raises SetupError when there is no space in it."""
    try:
        with tempfile.TemporaryDirectory(prefix="corrigenda-") as folder:
            yield Path(folder)
    except OSError as fault:
        if fault.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SetupError(
            "the disk for temporary files is full",
            remedy="Free some space there, or set TMPDIR to a folder on another disk",
            path=tempfile.gettempdir(),
        ) from None
