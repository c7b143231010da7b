"""Small tokenizers of every kind that people deploy, trained on the same few sentences."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

SENTENCES = (
    "The capital of France is Paris.",
    "Ada Lovelace was born in London.",
    'He said "Rome" and left for New York.',
    "日本の首相は岸田です。",
    "Göttingen lies in Lower Saxony: a town of 3,000 students.",
)
SPECIAL = ["<unk>", "<s>", "</s>"]
KINDS = ("byte-level", "metaspace-always", "metaspace-first", "metaspace-never", "prepend", "unigram")


@cache
def tokenizer_of(kind: str, *, begins: bool = False, ends: bool = False) -> Any:
    """A fast tokenizer; `begins` and `ends`: it puts BOS before and EOS behind every text."""
    core = _core(kind)
    if begins or ends:
        single = [*(["<s>"] if begins else []), "$A", *(["</s>"] if ends else [])]
        named = [("<s>", 1), ("</s>", 2)]
        core.post_processor = processors.TemplateProcessing(single=" ".join(single), special_tokens=named)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def _core(kind: str) -> Tokenizer:
    if kind == "byte-level":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        return _trained(core, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    if kind == "unigram":
        core = Tokenizer(models.Unigram())
        core.normalizer = normalizers.NFKC()
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        core.decoder = decoders.Metaspace(prepend_scheme="always")
        trainer = trainers.UnigramTrainer(vocab_size=160, special_tokens=SPECIAL, unk_token="<unk>")
        core.train_from_iterator(SENTENCES, trainer)
        return core
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=kind == "prepend", fuse_unk=True))
    scheme = "always" if kind == "prepend" else kind.removeprefix("metaspace-")
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    core.decoder = decoders.Metaspace(prepend_scheme=scheme)
    core = _trained(core)
    if kind != "prepend":
        return core
    # Llama 2 and Mistral 7B as they are converted: no pre-tokenizer at all.
    bare = Tokenizer(core.model)
    bare.add_special_tokens(SPECIAL)
    bare.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    bare.decoder = decoders.Sequence(parts)
    return bare


def _trained(core: Tokenizer, **options: Any) -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, show_progress=False, **options)
    core.train_from_iterator(SENTENCES, trainer)
    return core
