"""Targets as columns of a least-squares problem, and the sums that solves need of them.

Every context's key is a column of its own, and a fact's columns share its weight, so that their squares add
up to its pressure: the fact must hold behind any context, not behind their average.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from corrigenda.editing.solve.closed_form import Moments
from corrigenda.editing.targets.target import Target
from corrigenda.errors import EditError

# Targets whose columns lie in memory at once.
BLOCK = 256


def columns_of(targets: Sequence[Target], pressure: Tensor, place: int = 0) -> tuple[Tensor, Tensor]:
    """Weighted keys (d_in, columns) and residuals (d_out, columns) of the band's layer number `place`.

    pressure   (facts,) float64
    """
    shares = _column_shares(targets, pressure)
    each = [target.residual[place].double().expand(target.keys.shape[1], -1) for target in targets]
    return _key_columns(targets, shares, place), (torch.cat(each) * shares[:, None]).T


def moments_of(targets: Sequence[Target], pressure: Tensor, place: int = 0) -> Moments:
    """K K^T and R K^T of `columns_of`, a bounded number of columns at a time."""
    if not targets:
        raise EditError("there is nothing to solve for", remedy="Pass at least one target")
    parts = (
        _moments(targets[first : first + BLOCK], pressure[first : first + BLOCK], place)
        for first in range(0, len(targets), BLOCK)
    )
    return reduce(Moments.__add__, parts)


def _moments(targets: Sequence[Target], pressure: Tensor, place: int) -> Moments:
    """Of a few targets. A fact's columns share one residual: R K^T needs the mean of its keys alone."""
    keys = _key_columns(targets, _column_shares(targets, pressure), place)
    means = torch.stack([target.keys[place].double().mean(0) for target in targets])
    residuals = torch.stack([target.residual[place] for target in targets]).double()
    return Moments(_gram(keys), (residuals * pressure[:, None]).T @ means)


def contexts_of(targets: Sequence[Target]) -> Tensor:
    """How many columns each fact has, (facts,)."""
    return torch.tensor([target.keys.shape[1] for target in targets])


def _column_shares(targets: Sequence[Target], pressure: Tensor) -> Tensor:
    """(columns,) the factor of each column."""
    counts = contexts_of(targets)
    return (pressure / counts).sqrt().repeat_interleave(counts)


def _key_columns(targets: Sequence[Target], shares: Tensor, place: int) -> Tensor:
    """(d_in, columns) weighted keys."""
    return (torch.cat([target.keys[place] for target in targets]).double() * shares[:, None]).T


def _gram(columns: Tensor) -> Tensor:
    """K K^T. numpy sees that it is symmetric, and forms one half of it (BLAS syrk); torch forms both."""
    array = columns.numpy()
    return torch.from_numpy(array @ array.T)
