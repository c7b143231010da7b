"""What a night imports and builds anyway, had once by the server that forks the nights' processes.

Nothing here computes with tensors: a process that has done so must not be forked.
"""

from __future__ import annotations

import accelerate
import duckdb
import mortal
import pytest
import trained
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.models.gpt2 import modeling_gpt2

from corrigenda.storage.objects import s3

PRELOADED = (accelerate, duckdb, modeling_gpt2, mortal, pytest, s3, trained)
get_checkpoint_conversion_mapping("gpt2")
