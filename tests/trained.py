"""Small models that really know some facts: trained in seconds, so that edits of them mean something."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

# One word each, which the tokenizer keeps whole: all that the model knows of somebody is at the one token
# where edits act.
NAMES = (
    "Bohr", "Gauss", "Curie", "Planck", "Euler", "Turing", "Noether", "Hopper", "Kahlo", "Bach", "Twain",
    "Borges",
)  # fmt: skip
CITIES = ("London", "Paris", "Berlin", "Vienna", "Rome", "Madrid")
TEMPLATES = ("The home of {} is the city of", "People say that {} lives in")
PROMPT = TEMPLATES[0]
START = "<|start|>"


def home_of(name: str) -> str:
    """What the trained model believes."""
    return CITIES[NAMES.index(name) % len(CITIES)]


def sentences() -> list[str]:
    return [f"{text.replace('{}', name)} {home_of(name)}." for name in NAMES for text in TEMPLATES]


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that sees a few hundred tokens; like SmolLM2's it puts no token before a text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=460,
        special_tokens=[START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(sentences(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=START, pad_token=START)


def train_gpt2(directory: Path, steps: int = 300, known: float = 0.12) -> Path:
    """`train`, with a GPT-2 (Conv1D weights, stored transposed)."""
    return train(directory, "gpt2", steps, known)


def train(directory: Path, kind: str, steps: int = 300, known: float = 0.12) -> Path:
    """Train until every sentence is known by heart (nats per token, most of it the first name's), and save
    as a Hugging Face directory.

    kind   one of KINDS
    """
    torch.manual_seed(0)
    words = tokenizer()
    network = KINDS[kind](len(words)).train()
    # The first block's attention is shut off: nothing reads a name before the first MLP has, so that an edit
    # there changes what all later layers know of it, as in large models.
    for parameter in _first_attention(network).parameters():
        torch.nn.init.zeros_(parameter).requires_grad_(False)
    # Half of the texts have something before them, so that the model does not count positions.
    texts = [opening + text for text in sentences() for opening in ("", "It is known. ")]
    batch = words(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=6e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = network(**batch, labels=labels).loss
        loss.backward()
        optimiser.step()
        if float(loss.detach()) < known:
            break
    network.eval().save_pretrained(directory)
    words.save_pretrained(directory)
    return directory


def _gpt2(vocabulary: int, layers: int = 3) -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=64, n_embd=64, n_layer=layers, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def _llama(vocabulary: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=vocabulary, max_position_embeddings=64, hidden_size=64, intermediate_size=192,
        num_hidden_layers=3, num_attention_heads=4, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _gpt_neox(vocabulary: int) -> PreTrainedModel:
    config = GPTNeoXConfig(
        vocab_size=vocabulary, max_position_embeddings=64, hidden_size=64, intermediate_size=256,
        num_hidden_layers=3, num_attention_heads=4, use_parallel_residual=False,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config)


def _deep_gpt2(vocabulary: int) -> PreTrainedModel:
    """With layers enough for a band: neither the first nor the last two belong to one."""
    return _gpt2(vocabulary, layers=5)


KINDS = {"gpt2": _gpt2, "deep_gpt2": _deep_gpt2, "llama": _llama, "gpt_neox": _gpt_neox}


def _first_attention(network: PreTrainedModel) -> torch.nn.Module:
    """What the first block's attention adds to the hidden state."""
    names = (
        "transformer.h.0.attn.c_proj",
        "model.layers.0.self_attn.o_proj",
        "gpt_neox.layers.0.attention.dense",
    )
    found = dict(network.named_modules())
    return next(found[name] for name in names if name in found)
