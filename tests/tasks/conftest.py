"""Tasks are tested on the tiny models that the tests of editing make."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "editing"))
torch.set_num_threads(1)
