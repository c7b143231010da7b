"""Tasks are tested on the tiny models and made-up rows of other folders' tests."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in ("editing", "validation"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
