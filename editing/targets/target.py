"""The record of what one fact asks of the edited layer: what targets, solves and caches share.

By itself, so that linear algebra imports neither a network nor the descent.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Target:
    """What one group of requests asks of the edited layer; depends on the pristine base alone.

    keys      (contexts, d_in)  float32  inputs of the projection at the lookup, the plain prompt's first
    residual  (d_out,)          float32  wanted output minus present output
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
