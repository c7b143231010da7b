"""A checkpoint as any consumer uses it: plain transformers, none of our code between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from corrigenda.models.loading import quiet_transformers


def continuations(directory: Path, prompts: Sequence[str], new_tokens: int = 8) -> list[str]:
    """What the checkpoint says after each prompt, by greedy decoding, one prompt at a time."""
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(directory).eval()
        said = []
        for prompt in prompts:
            inputs = tokenizer(prompt, return_tensors="pt")
            with torch.no_grad():
                out = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
            said.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return said
