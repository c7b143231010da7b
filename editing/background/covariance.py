"""The second moment of a layer's keys over background text: what an edit must leave alone.

Rows are short and batches bounded, so that it always finishes; the forward pass stops at the last layer
that is asked for. Blocks are summed in float32 and merged in float64.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from corrigenda.errors import EditError
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.lower import projection_inputs

_BATCH_TOKENS = 4096


def key_covariance(
    model: LanguageModel,
    layers: Sequence[int],
    tokens: Tensor,
    *,
    batch_tokens: int = _BATCH_TOKENS,
    advance: Callable[[int], None] = lambda _tokens: None,
) -> dict[int, Tensor]:
    """E[k k^T], not centred, of the projection's inputs at each layer, in one pass over the text.

    tokens    (rows, length)   every position counts but the first, which is an attention sink
    returns   {layer: (d_in, d_in)} float64, on the CPU
    advance   called with the number of tokens that are done

    Raises EditError when there is no row of two tokens.
    """
    _check(tokens)
    moments = _moments(model, layers, tokens, batch_tokens, advance)
    return {layer: total / keys_in(tokens) for layer, total in moments.items()}


def resumable_covariance(
    model: LanguageModel,
    layers: Sequence[int],
    tokens: Tensor,
    part: Path,
    *,
    chunk_tokens: int = 65_536,
    advance: Callable[[int], None] = lambda _tokens: None,
) -> dict[int, Tensor]:
    """`key_covariance` that goes on where a killed process stopped.

    part   a file of this very computation: sums so far, replaced whole after each chunk of text, removed
           at the end. A damaged one is as good as none.
    """
    _check(tokens)
    totals, done = _read_part(part, layers, len(tokens))
    advance(tokens[:done].numel())
    step = max(1, chunk_tokens // tokens.shape[1])
    for first in range(done, len(tokens), step):
        chunk = tokens[first : first + step]
        moments = _moments(model, layers, chunk, _BATCH_TOKENS, advance)
        totals = {layer: totals[layer] + own if totals else own for layer, own in moments.items()}
        if first + step < len(tokens):
            _write_part(part, totals, first + len(chunk))
    part.unlink(missing_ok=True)
    return {layer: total / keys_in(tokens) for layer, total in totals.items()}


def keys_in(tokens: Tensor) -> int:
    """Positions of token rows (rows, length) that count: all but the first of each."""
    return len(tokens) * (tokens.shape[1] - 1)


def _moments(
    model: LanguageModel,
    layers: Sequence[int],
    tokens: Tensor,
    batch_tokens: int,
    advance: Callable[[int], None],
) -> dict[int, Tensor]:
    """Sums of k k^T per layer (d_in, d_in) float64; blocks are summed in float32."""
    sums: dict[int, Tensor] = {}
    for some in torch.split(tokens, max(1, batch_tokens // tokens.shape[1])):
        block = some.to(model.device)
        for layer, keys in projection_inputs(model, layers, input_ids=block).items():
            flat = keys[:, 1:].reshape(-1, keys.shape[-1]).float()
            moment = (flat.T @ flat).cpu().double()
            sums[layer] = sums[layer] + moment if layer in sums else moment
        advance(block.numel())
    return sums


def _read_part(part: Path, layers: Sequence[int], rows: int) -> tuple[dict[int, Tensor], int]:
    """The sums so far and the rows that are in them."""
    try:
        held = load_file(part)
        done = int(held["done"])
        totals = {layer: held[str(layer)] for layer in layers}
    except (OSError, SafetensorError, KeyError):
        return {}, 0
    return (totals, done) if 0 < done < rows else ({}, 0)


def _write_part(part: Path, totals: Mapping[int, Tensor], done: int) -> None:
    part.parent.mkdir(parents=True, exist_ok=True)
    scratch = part.with_suffix(f".{os.getpid()}")
    save_file({str(layer): total for layer, total in totals.items()} | {"done": torch.tensor(done)}, scratch)
    scratch.replace(part)


def _check(tokens: Tensor) -> None:
    rows, length = tokens.shape
    if rows == 0 or length < 2:
        raise EditError(
            "there is no background text", remedy="Give rows of two tokens or more", shape=(rows, length)
        )
