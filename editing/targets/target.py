"""The record of what one fact asks of the edited layers: what targets, solves and caches share.

By itself, so that linear algebra imports neither a network nor the descent.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Target:
    """What one group of requests asks of the band's layers; depends on the pristine base alone.

    keys      (width, contexts, d_in)  float32  inputs of the projections at the lookup, the plain prompt's
              first; above the lowest layer those that the residuals below bring forth
    residual  (width, d_out)           float32  wanted outputs minus present ones
    loss      nats: mean NLL of the target over the contexts, as reached
    steps     gradient steps taken
    needed    share of the residual that suffices for the plain prompts to be answered right; infinite when
              not even the whole residual does
    """

    keys: Tensor
    residual: Tensor
    loss: float
    steps: int
    needed: float = 1.0
