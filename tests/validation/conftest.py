"""Tiny random models of three families, a tokenizer trained on the spot, and corrections to probe."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from corrigenda.facts import Correction, Neighbour
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.structure import family_of

CITIES = ["Paris", "Rome", "Berlin", "Oslo", "Lima", "Cairo", "Ulaanbaatar", "New York", "Saint Petersburg"]
PEOPLE = [f"{first} {last}" for first in ("Ann", "Bo", "Cy", "Di") for last in ("Stone", "Rivers", "Hill")]
TEMPLATES = ["{} was born in", "The mayor of the old town, {}, lives in", "{} works in"]


def train_tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE(unk_token=None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    text = [t.replace("{}", p) + " " + c for t in TEMPLATES for p in PEOPLE for c in CITIES[:6]]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        text,
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"]),
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def tiny_network(family: str, vocabulary: int) -> Any:
    torch.manual_seed(7)
    common = {"vocab_size": vocabulary, "attn_implementation": "eager"}
    llama = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3,
    }  # fmt: skip
    match family:
        case "llama":
            network: Any = LlamaForCausalLM(LlamaConfig(**common, **llama))
        case "gpt2":
            network = GPT2LMHeadModel(
                GPT2Config(**common, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3)
            )
        case _:
            network = Gemma2ForCausalLM(
                Gemma2Config(**common, **llama, head_dim=8, sliding_window=8, final_logit_softcapping=3.0)
            )
    return network.eval().requires_grad_(False)


def tiny_model(family: str) -> LanguageModel:
    tokenizer = train_tokenizer()
    network = tiny_network(family, len(tokenizer))
    return LanguageModel(network, tokenizer, family_of(network), torch.device("cpu"))


@pytest.fixture(scope="session", params=["llama", "gpt2", "gemma2"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def llama() -> LanguageModel:
    return tiny_model("llama")


def correction(number: int, **changes: Any) -> Correction:
    """The `number`-th of an endless row of made-up corrections with paraphrases and neighbours."""
    subject = PEOPLE[number % len(PEOPLE)] + (f" {number}" if number >= len(PEOPLE) else "")
    fields: dict[str, Any] = {
        "correction_id": f"c{number:03}",
        "subject": subject,
        "prompt": TEMPLATES[number % len(TEMPLATES)],
        "target_new": CITIES[number % len(CITIES)],
        "target_old": CITIES[(number + 1) % len(CITIES)],
        "asserted_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=number),
        "paraphrases": (f"The home of {subject} is", f"One meets {subject} in"),
        "neighborhood": tuple(
            Neighbour(f"{name} {number} was born in", CITIES[(number + 2 + i) % len(CITIES)])
            for i, name in enumerate(("Eve", "Flo"))
        ),
    }
    return Correction(**(fields | changes))


@pytest.fixture(scope="session")
def make_correction() -> Any:
    return correction
