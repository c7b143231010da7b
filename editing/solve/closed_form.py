"""Closed-form solvers: the one change of one linear map that serves all facts at once.

All solvers take keys K (d_in, n), residuals R (d_out, n) and the key covariance C (d_in, d_in), work in
float64 and return D (d_out, d_in). Columns may be facts or contexts of facts. No I/O, no settings object,
no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from corrigenda.errors import EditError

# Share of the mean eigenvalue that is added to every direction of C: what no background token has shown is
# not free to change.
_RIDGE = 1e-3
Solver = Literal["memit", "emmet", "alphaedit"]


def solve_update(
    keys: Tensor,
    residuals: Tensor,
    covariance: Tensor,
    weight: float,
    solver: Solver = "memit",
) -> Tensor:
    """The smallest change of one linear map that moves `keys` by `residuals`.

    keys        (d_in, n)      one column per fact or context
    residuals   (d_out, n)     wanted output minus present output, same columns
    covariance  (d_in, d_in)   E[k k^T] over background text, not centred; a small ridge is added
    weight      > 0            how many background keys each fact is weighed against
    solver      `memit` (least squares), `emmet` (equality), `alphaedit` (null space of C)
    returns     (d_out, d_in)  float64; the caller casts

    Raises EditError when shapes disagree or a system is not positive definite.
    """
    k, r, c = keys.double(), residuals.double(), covariance.double()
    _check(k, r, c, weight)
    if k.shape[1] == 0:
        return torch.zeros(r.shape[0], k.shape[0], dtype=torch.float64, device=k.device)
    return _SOLVERS[solver](k, r, ridged(c), weight)


@dataclass(frozen=True, slots=True)
class Moments:
    """What least squares needs of keys and residuals; sums of moments are those of all columns together.

    gram    (d_in, d_in)    K K^T
    cross   (d_out, d_in)   R K^T
    """

    gram: Tensor
    cross: Tensor

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.gram + other.gram, self.cross + other.cross)


def solve_moments(moments: Moments, covariance: Tensor, weight: float, solver: Solver = "memit") -> Tensor:
    """`solve_update` from moments: many solves share the cost of forming them.

    Raises EditError when the system is not positive definite or holds values that are not finite, and for
    `emmet`, whose equality constraints cannot be told from sums.
    """
    if solver == "emmet":
        raise EditError("emmet needs each column", remedy="Use `solve_update`", solver=solver)
    c = ridged(covariance.double())
    if not all(bool(torch.isfinite(part).all()) for part in (c, moments.gram, moments.cross)):
        raise _not_finite()
    if solver == "alphaedit":
        return _alphaedit_of(moments, c, weight)
    return _right_divide(moments.cross, cholesky(weight * c + moments.gram, weight))


def null_space_limit(covariance: Tensor) -> float:
    """The weight above which `alphaedit` has no direction left that it may change."""
    values = torch.linalg.eigvalsh(ridged(covariance.double()))
    return float(values.mean() / values[0])


def ridged(c: Tensor) -> Tensor:
    """C with a small share of its mean eigenvalue in every direction."""
    return c + _RIDGE * c.diagonal().mean() * torch.eye(len(c), dtype=c.dtype, device=c.device)


def _memit(k: Tensor, r: Tensor, c: Tensor, weight: float) -> Tensor:
    """D = R K^T (weight C + K K^T)^-1 (Meng et al. 2022, MEMIT, eq. 14).

    With fewer columns than dimensions the same matrix comes from an n x n system:
    D = R (I + K^T (weight C)^-1 K)^-1 K^T (weight C)^-1 (Woodbury).
    """
    if k.shape[1] >= k.shape[0]:
        return reference_memit(k, r, c, weight)
    back = left_divide(cholesky(weight * c, weight), k)  # (weight C)^-1 K
    inner = torch.eye(k.shape[1], dtype=k.dtype, device=k.device) + k.T @ back
    return _right_divide(r, cholesky(inner, weight)) @ back.T


def reference_memit(keys: Tensor, residuals: Tensor, covariance: Tensor, weight: float) -> Tensor:
    """MEMIT's normal equations as printed: the truth for the Woodbury path."""
    factor = cholesky(weight * covariance + keys @ keys.T, weight)
    return _right_divide(residuals @ keys.T, factor)


def _emmet(k: Tensor, r: Tensor, c: Tensor, weight: float) -> Tensor:
    """D = R (K^T C^-1 K + ridge)^-1 K^T C^-1 (Gupta et al. 2024, EMMET, eq. 8).

    The ridge, 1/weight-free and relative (1e-9 of the mean diagonal), keeps repeated keys solvable.
    """
    back = left_divide(cholesky(c, weight), k)  # C^-1 K
    gram = k.T @ back
    ridge = 1e-9 * float(gram.diagonal().mean())
    gram = gram + ridge * torch.eye(k.shape[1], dtype=k.dtype, device=k.device)
    return _right_divide(r, cholesky(gram, weight)) @ back.T


def _alphaedit(k: Tensor, r: Tensor, c: Tensor, weight: float) -> Tensor:
    return _alphaedit_of(Moments(k @ k.T, r @ k.T), c, weight)


def _alphaedit_of(moments: Moments, c: Tensor, weight: float) -> Tensor:
    """D = R K^T P (K K^T P + I)^-1, P on the small eigenvalues of C (Fang et al. 2025, AlphaEdit, eq. 14).

    P keeps the directions whose share of background energy is below 1/weight of the mean; the system is
    solved in their basis U, where it is symmetric: D = R A^T (A A^T + I)^-1 U^T with A = U^T K.
    """
    values, vectors = torch.linalg.eigh(c)
    basis: Tensor = vectors[:, values <= values.mean() / weight]
    if basis.shape[1] == 0:
        raise EditError(
            "the covariance has no null space at this weight",
            remedy="Lower `covariance_weight`, or use the memit solver",
            weight=weight,
        )
    identity = torch.eye(basis.shape[1], dtype=c.dtype, device=c.device)
    normal = basis.T @ moments.gram @ basis + identity
    found: Tensor = _right_divide(moments.cross @ basis, cholesky(normal, weight)) @ basis.T
    return found


_SOLVERS: dict[Solver, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "memit": _memit,
    "emmet": _emmet,
    "alphaedit": _alphaedit,
}


def left_divide(factor: Tensor, right: Tensor) -> Tensor:
    """A^-1 `right` for a symmetric A given by its Cholesky factor."""
    solved: Tensor = torch.cholesky_solve(right, factor)
    return solved


def _right_divide(left: Tensor, factor: Tensor) -> Tensor:
    """`left` A^-1 for a symmetric A given by its Cholesky factor."""
    return left_divide(factor, left.T).T


def cholesky(matrix: Tensor, weight: float) -> Tensor:
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        raise EditError(
            "the system of the edit is not positive definite",
            remedy="Collect more background tokens than d_in, or raise `covariance_weight`",
            size=matrix.shape[0],
            weight=weight,
        )
    return factor


def _check(k: Tensor, r: Tensor, c: Tensor, weight: float) -> None:
    if k.shape[1] != r.shape[1] or c.shape != (k.shape[0], k.shape[0]) or weight <= 0:
        raise EditError(
            "keys, residuals and covariance do not fit together",
            remedy="Pass K (d_in, n), R (d_out, n), C (d_in, d_in) and a weight above zero",
            keys=tuple(k.shape),
            residuals=tuple(r.shape),
            covariance=tuple(c.shape),
            weight=weight,
        )
    if not all(bool(torch.isfinite(part).all()) for part in (k, r, c)):
        raise _not_finite()


def _not_finite() -> EditError:
    return EditError(
        "keys, residuals or covariance hold values that are not finite",
        remedy="Look for a fact whose optimisation diverged, or lower the learning rate",
    )
