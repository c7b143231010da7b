"""A network's head alone: logits from hidden states, by the network's own code.

Some families scale or cap their logits (Granite, Cohere, Gemma 2). Whatever a network does behind its
decoder, it does here, too: the decoder is replaced by one that gives back what it is given.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions


class _GivesBack(nn.Module):
    """Stands where a network's decoder is. Some networks reach for a part of it: that is this one, too."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        for part in ("decoder", "language_model"):
            object.__setattr__(self, part, self)

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)


def head_of(network: Any) -> Any:
    """The network without its layers, sharing all weights: called with `inputs_embeds`, hidden states that
    passed the final norm (rows, length, d), it returns their `logits`."""
    head = copy.copy(network)
    head._modules = dict(network._modules)
    head._modules[network.base_model_prefix] = _GivesBack(network.config)
    return head
