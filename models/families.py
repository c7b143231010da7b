"""Architecture families: where the layers of a network are, and which linear map of each can be edited.

What is not said by hand is found from the module tree (`models/structure.py`). Knows names and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corrigenda.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class Family:
    """Module paths of one architecture, from the network on.

    name               the configuration's `model_type`
    layers             path of the list of decoder layers
    projection         path, inside a layer, of the MLP's output projection: the map that is edited
    tail               paths of what stands behind the last layer, in the order of their calls: the final norm
    stored_transposed  the weight is kept as (d_in, d_out), as GPT-2's Conv1D does
    post_norm          path, inside a layer, of a norm that stands *behind* the projection
    gain               what the projection's output is multiplied with before it is added to the hidden state
    """

    name: str
    layers: str = "model.layers"
    projection: str = "mlp.down_proj"
    tail: tuple[str, ...] = ("model.norm",)
    stored_transposed: bool = False
    post_norm: str | None = None
    gain: float = 1.0

    def weight_name(self, layer: int) -> str:
        """The editable tensor of `layer`, as the network calls it."""
        return f"{self.layers}.{layer}.{self.projection}.weight"


# Families whose linear maps are Conv1D modules, which keep their weights as (d_in, d_out).
_TRANSPOSED = {"gpt2", "gpt-sw3", "openai-gpt"}

# Where structure does not tell: windows of attention that are counted in columns, inside the attention.
READ_PLAINLY = {"gpt_neo"}

# What has no single map per layer that could be edited, by what its configuration calls it.
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts")


def keeps_transposed(model_type: str) -> bool:
    """Whether a family's linear maps are stored as (d_in, d_out)."""
    return model_type in _TRANSPOSED


def refuse_by_configuration(config: Mapping[str, Any]) -> None:
    """Raise UnsupportedModelError for what a configuration alone shows to be impossible to edit.

    config   of the text model, as config.json says it
    """
    name = config.get("model_type")
    experts = next((config[key] for key in _EXPERTS if _count(config.get(key)) > 1), None)
    if experts is not None:
        raise UnsupportedModelError(
            "a mixture of experts has no single map per layer that could be edited",
            remedy="Use a dense model of the same series",
            model_type=name,
            experts=experts,
        )
    if config.get("is_encoder_decoder"):
        raise UnsupportedModelError(
            "an encoder-decoder is no causal language model",
            remedy="Use a decoder-only model",
            model_type=name,
        )


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
