"""A tiny random model of every family that can be edited, made from its configuration."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from corrigenda.models.agreement import proved
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.structure import family_of

VOCABULARY = 50
# Under all the names that configurations have for them.
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "pad_token": 0,
    "num_hidden_layers": 3, "n_layer": 3, "n_layers": 3, "num_layers": 3,
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "word_embed_proj_dim": 32,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4,
    "num_key_value_heads": 2, "num_kv_heads": 2, "head_dim": 8, "rotary_dim": 4,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "expansion_ratio": 2,
    "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "max_seq_len": 64,
    "query_pre_attn_scalar": 8,
}  # fmt: skip
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
WINDOW = {"sliding_window": 4, "layer_types": MIXED}
LATENT: dict[str, Any] = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "head_dim": None, "num_key_value_heads": 4,
}  # fmt: skip
# What a family's configuration says besides; None leaves a field out.
FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": {}, "arcee": {}, "biogpt": {}, "bitnet": {}, "bloom": {}, "codegen": {},
    "cohere": {"logit_scale": 0.25}, "cohere2": {"logit_scale": 0.25, **WINDOW}, "cwm": WINDOW,
    "diffllama": {}, "ernie4_5": {}, "exaone4": WINDOW, "falcon": {"head_dim": None},
    "gemma": {}, "gemma2": WINDOW, "gemma3_text": WINDOW, "glm": {}, "glm4": {},
    "gpt2": {"head_dim": None}, "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1], [["global"], 1]], "window_size": 4},
    "gpt_neox": {}, "gpt_neox_japanese": {"intermediate_multiple_size": 2}, "gptj": {},
    "granite": {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "helium": {}, "hunyuan_v1_dense": {}, "hyperclovax": {}, "jais2": {}, "llama": {},
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "minicpm3": LATENT, "ministral": WINDOW, "ministral3": {}, "mistral": {"sliding_window": 4},
    "mpt": {}, "nanochat": {}, "nemotron": {}, "olmo": {}, "olmo2": {}, "olmo3": WINDOW,
    "persimmon": {}, "phi": {}, "phi3": {"sliding_window": 4},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "qwen3": {},
    "seed_oss": {}, "smollm3": {}, "stablelm": {}, "starcoder2": {"sliding_window": 4}, "vaultgemma": {},
    "xglm": {}, "youtu": LATENT,
}  # fmt: skip


def configuration(kind: str, **more: Any) -> Any:
    own = FAMILIES.get(kind, {}) | more
    made = type(AutoConfig.for_model(kind))
    base = made()
    known = {*getattr(made, "attribute_map", {}), *inspect.signature(made.__init__).parameters}
    asked = {name: value for name, value in SMALL.items() if hasattr(base, name) or name in known} | own
    return made(**{name: value for name, value in asked.items() if value is not None})


def network_of(kind: str, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    """A random network of the family; the usual initialisation is so small that nothing happens."""
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(configuration(kind, **more), attn_implementation="eager")
    for name, weight in network.named_parameters():
        norm = weight.ndim == 1 and "norm" in name.lower() and name.endswith("weight")
        torch.nn.init.normal_(weight, mean=1.0 if norm else 0.0, std=0.2 if weight.ndim > 1 else 0.1)
    return network.to(dtype).eval().requires_grad_(False)


def model_of(kind: str, dtype: torch.dtype = torch.float32, tokenizer: Any = None) -> LanguageModel:
    network = network_of(kind, dtype)
    return proved(LanguageModel(network, tokenizer, family_of(network), torch.device("cpu")))


# What cannot be edited: a part of the reason, and what makes the configuration small enough to look at.
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_oss": ("mixture of experts", {}),
    "mixtral": ("mixture of experts", {}),
    "qwen2_moe": ("mixture of experts", {}),
    "qwen3_moe": ("mixture of experts", {}),
    "jetmoe": ("mixture of experts", {}),
    "mamba": ("no layer has an MLP", {}),
    "falcon_mamba": ("no layer has an MLP", {}),
}
