"""Drift: how far a candidate's next-token distributions have moved from the base's on held-out text.

Exact, over the whole vocabulary. A candidate differs from its base in a few tensors, so the base is had by
putting those tensors back for the length of a forward; no second model is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from corrigenda.facts import Progress, digest_of
from corrigenda.validation.reading import LOGITS_AT_ONCE
from corrigenda.validation.tables import DRIFT

if TYPE_CHECKING:
    from corrigenda.models.language_model import LanguageModel

BaseNetwork = Callable[[], AbstractContextManager[Any]]
_SHOWN = 160  # characters of a text that rows carry


def drift(
    model: LanguageModel,
    sequences: Sequence[Sequence[int]],
    base: BaseNetwork,
    *,
    progress: Progress | None = None,
) -> pa.Table:
    """Drift of `model`, the candidate, from its base on token sequences, as the table DRIFT.

    sequences   held-out text, special tokens included; what is shorter than two tokens predicts nothing
                and is left out
    base        opens a context that yields the network with the base's weights: `as_base` or `beside`
    """
    rows = []
    with torch.inference_mode():
        for batch in _batches(sequences, model.network.config.get_text_config().vocab_size):
            tokens = torch.tensor(batch, device=model.device)
            after = _log_probs(model.network, tokens)
            with base() as network:
                before = _log_probs(network, tokens)
            rows += _rows(model.tokenizer, tokens, before, after)
            if progress:
                progress(len(batch))
    return pa.Table.from_pylist(rows, schema=DRIFT)


def as_base(model: LanguageModel, weights: Mapping[int, Tensor]) -> BaseNetwork:
    """The candidate's own network, with the base's tensors, by layer, in place of the edited ones."""

    @contextmanager
    def opened() -> Iterator[Any]:
        with ExitStack() as swaps:
            for layer, weight in weights.items():
                swaps.enter_context(swapped(model.weight(layer), weight))
            yield model.network

    return opened


def beside(base: LanguageModel) -> BaseNetwork:
    """A base that is loaded as a model of its own."""
    return lambda: nullcontext(base.network)


@contextmanager
def swapped(parameter: Tensor, value: Tensor) -> Iterator[None]:
    """`parameter` holds `value` for the length of the block; its own bits were never touched."""
    own = parameter.data
    if own.shape != value.shape:
        raise ValueError(f"a tensor of shape {tuple(value.shape)} cannot stand for {tuple(own.shape)}")
    parameter.data = value.to(device=own.device, dtype=own.dtype)
    try:
        yield
    finally:
        parameter.data = own


def _batches(sequences: Sequence[Sequence[int]], vocabulary: int) -> Iterator[list[list[int]]]:
    """Sequences of equal length, so many that their logits stay within the bound."""
    batch: list[list[int]] = []
    for sequence in sorted((list(s) for s in sequences if len(s) > 1), key=len):
        full = (len(batch) + 1) * len(sequence) * vocabulary > LOGITS_AT_ONCE
        if batch and (full or len(batch[0]) != len(sequence)):
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch


def _log_probs(network: Any, tokens: Tensor) -> Tensor:
    """(n, length - 1, vocabulary) log-probabilities of the next token."""
    logits: Tensor = network(input_ids=tokens, use_cache=False).logits
    return logits[:, :-1].float().log_softmax(-1)


def _rows(tokenizer: Any, tokens: Tensor, before: Tensor, after: Tensor) -> list[dict[str, Any]]:
    following = tokens[:, 1:, None]
    divergence = (before.exp() * (before - after)).sum(-1).cpu().double().mean(1).tolist()
    likely = [side.gather(-1, following).cpu().double().mean((1, 2)).tolist() for side in (before, after)]
    texts = tokenizer.batch_decode(tokens.tolist(), skip_special_tokens=True)
    return [
        {
            "probe_id": digest_of(sequence)[:20],
            "prompt": text[:_SHOWN],
            "tokens": len(sequence) - 1,
            "logp_before": old,
            "logp_after": new,
            "kl": kl,
        }
        for sequence, text, old, new, kl in zip(tokens.tolist(), texts, *likely, divergence, strict=True)
    ]
