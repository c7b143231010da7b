"""What a residual costs at each layer of a band: measured on known texts, once per base and band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log

import torch
from torch import Tensor

from corrigenda.editing.solve.closed_form import ridged
from corrigenda.editing.targets.band import Band
from corrigenda.models.encoding import TokenRow
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.lower import lookup_keys


def laid(
    model: LanguageModel,
    layers: Sequence[int],
    covariances: Mapping[int, Tensor],
    fishers: Mapping[int, Tensor],
    rows: Sequence[TokenRow],
) -> Band:
    """The band with its scales, from what an edit of some known texts would do at each of the layers.

    covariances   {layer: (d_in, d_in)} E[k k^T]
    fishers       {layer: (d_out, d_out)} see `output_fisher`; without any, all scales are 1
    rows          texts with subjects; the keys at their lookups are read

    To give one key k the output r costs r^T G r / (k^T C^-1 k) in nats, to second order. The sum over all
    layers is least, for a given effect, where residuals are as long as sqrt(leverage / trace of G) is large.
    """
    if len(layers) == 1 or not fishers or not rows:
        return Band(tuple(layers), (1.0,) * len(layers))
    keys = lookup_keys(model, layers, rows).cpu().double()
    logs = []
    for place, layer in enumerate(layers):
        own = keys[:, place]
        leverage = float((torch.linalg.solve(ridged(covariances[layer]), own.T).T * own).sum(-1).mean())
        logs.append(log(max(leverage, 1e-30) / max(float(fishers[layer].trace()), 1e-30)) / 2)
    middle = sum(logs) / len(logs)
    return Band(tuple(layers), tuple(round(exp(each - middle), 3) for each in logs))
