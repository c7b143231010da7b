"""Benchmarks are scripts beside the package; their parts are tested like anything else."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
for place in (ROOT, ROOT / "tests" / "editing"):
    sys.path.insert(0, str(place))
