"""The command line is tested over stores that the tests of storage make."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "storage"))
