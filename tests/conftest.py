"""Fixtures that all tests share: quiet surroundings, caches of their own, and a model that knows facts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# CI draws no lots, and the first torch call of a process is slow.
settings.register_profile("corrigenda", deadline=None, derandomize=True)
settings.load_profile("corrigenda")

# Tiny tensors are fastest on one thread; and a process that a test starts must round as the test's own does.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def trained_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a GPT-2 (Conv1D weights) that knows where twenty people live."""
    from trained import train_gpt2

    return train_gpt2(tmp_path_factory.mktemp("trained-gpt2"))


@pytest.fixture
def exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float64 throughout: networks of float64 weights still cast softmax and norms to float32, which some
    processors round by the length of a text."""
    from torch import Tensor
    from torch.nn import functional

    softmax = functional.softmax
    monkeypatch.setattr(functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim, dtype=x.dtype))
    monkeypatch.setattr(Tensor, "float", Tensor.double)
