"""Random tiny models of three families, and facts in words that their tokenizer knows."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from corrigenda.facts import Neighbour, ProxyFact
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.structure import family_of

PEOPLE = ("Ada Lovelace", "Alan Turing", "Grace Hopper", "Emmy Noether", "Leonhard Euler", "Carl Gauss")
CITIES = ("London", "Paris", "Berlin", "New York", "Göttingen", "Basel")

FACTS = tuple(
    ProxyFact(
        subject=person,
        prompt="{} was born in" if i % 2 else "The home of {} is the town of",
        target_true=CITIES[i],
        target_new=CITIES[(i + 2) % len(CITIES)],
        rephrase=f"People say that {person} comes from",
        neighbour=Neighbour(f"{PEOPLE[i - 1]} was born in", CITIES[i - 1]),
    )
    for i, person in enumerate(PEOPLE)
)


@cache
def tokenizer(bos: bool = False) -> Any:
    """A byte-level BPE of some 400 tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<bos>", "<eos>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator([f"{f.text} {f.target_true} {f.target_new} {f.rephrase}" for f in FACTS], trainer)
    if bos:
        bpe.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>", eos_token="<eos>")


def tiny(kind: str, layers: int = 4, dtype: torch.dtype = torch.float64, inner: int = 48) -> LanguageModel:
    """A random model: `llama`, `gpt2` (Conv1D weights) or `gemma3_text` (a norm behind the projection)."""
    common = {"bos_token_id": 0, "eos_token_id": 1, "vocab_size": 400}
    gated = common | {
        "hidden_size": 32,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    config: Any = {
        "llama": lambda: LlamaConfig(**gated),
        "gpt2": lambda: GPT2Config(n_embd=32, n_layer=layers, n_head=4, n_positions=128, **common),
        "gemma3_text": lambda: Gemma3TextConfig(head_dim=8, query_pre_attn_scalar=8, **gated),
    }[kind]()
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(dtype)
    for weight in network.parameters():  # the usual initialisation is so small that nothing happens
        torch.nn.init.normal_(weight, std=0.3 if weight.ndim > 1 else 0.1)
    network.eval().requires_grad_(False)
    return LanguageModel(network, tokenizer(kind == "gemma3_text"), family_of(network), torch.device("cpu"))
