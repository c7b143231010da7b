"""Architecture families: where the layers are, and which linear map of each can be edited.

One row per family, never per model. Knows module paths and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from corrigenda.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class Family:
    """Module paths of one architecture.

    name               the configuration's `model_type`
    layers             path of the list of decoder layers
    projection         path, inside a layer, of the MLP's output projection: the map that is edited
    final_norm         path of the norm before the output embedding
    stored_transposed  the weight is kept as (d_in, d_out), as GPT-2's Conv1D does
    post_norm          path, inside a layer, of a norm that stands *behind* the projection
    """

    name: str
    layers: str = "model.layers"
    projection: str = "mlp.down_proj"
    final_norm: str = "model.norm"
    stored_transposed: bool = False
    post_norm: str | None = None

    def weight_name(self, layer: int) -> str:
        """The editable tensor of `layer`, as checkpoints call it."""
        return f"{self.layers}.{layer}.{self.projection}.weight"


_ROWS = (
    Family("llama"),
    Family("mistral"),
    Family("qwen2"),
    Family("qwen3"),
    Family("phi3"),
    Family("olmo"),
    Family("gemma"),
    Family("olmo2", post_norm="post_feedforward_layernorm"),
    Family("gemma2", post_norm="post_feedforward_layernorm"),
    Family("gemma3_text", post_norm="post_feedforward_layernorm"),
    Family("gpt_neox", "gpt_neox.layers", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"),
    Family("gpt2", "transformer.h", "mlp.c_proj", "transformer.ln_f", stored_transposed=True),
)
FAMILIES = {row.name: row for row in _ROWS}


def family_of(model_type: str) -> Family:
    """The family of a configuration's `model_type`.

    Raises UnsupportedModelError for families without a row; mixtures of experts have none, because
    they have no single projection per layer.
    """
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            "this architecture cannot be edited",
            remedy="Use one of the families listed, or add a row to models/families.py and a tiny model "
            "of it to the tests",
            model_type=model_type,
            families=sorted(FAMILIES),
        )
    return FAMILIES[model_type]
