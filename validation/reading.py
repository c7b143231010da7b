"""What a network says to prompts and their continuations, token by token, with no work done twice.

Prompts of equal length go through the network together, so that nothing is padded and no mask is needed; a
beginning that many of them share is read once; a prompt is read once however many continuations follow it;
logits are computed only at the positions that are looked at. Knows tokens; nothing of probes or texts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Tokens = tuple[int, ...]

LOGITS_AT_ONCE = 2**25  # floats; 128 MiB
WORTH_A_FORWARD = 32  # tokens; to read fewer than that costs less than another pass over the weights
NOTHING = -1  # stands for the token that a model chooses which answers with NaN


@dataclass(slots=True)
class Continuation:
    """Tokens after a prompt, and the model's verdict on them once it has read them.

    logp     nats, mean over the tokens; -inf from a model that answers with NaN
    rank     of the first token among all; 1 is the likeliest
    argmax   the likeliest token at each position, given the tokens before it
    """

    tokens: Tokens
    logp: float = float("-inf")
    rank: int = 0
    argmax: list[int] = field(default_factory=list)

    @property
    def agreed(self) -> list[int]:
        """The greedy continuation as far as reading `tokens` shows it: up to the first other choice."""
        for position, (said, wanted) in enumerate(zip(self.argmax, self.tokens, strict=True)):
            if said != wanted:
                return self.argmax[: position + 1]
        return self.argmax


@dataclass(slots=True)
class Reading:
    """A prompt with everything that is asked of it.

    wanted   tokens of greedy continuation to find
    asked    how many probes ask
    """

    prompt: Tokens
    continuations: dict[Tokens, Continuation] = field(default_factory=dict)
    wanted: int = 1
    asked: int = 0
    greedy: list[int] = field(default_factory=list)


_Placed = tuple[int, Continuation]  # and the row of the prompt that it follows


def batches(readings: Iterable[Reading], batch_tokens: int) -> Iterator[list[Reading]]:
    """Readings of equal prompt length, at most `batch_tokens` prompt tokens together, neighbours alike."""
    batch: list[Reading] = []
    for reading in sorted(readings, key=lambda reading: (len(reading.prompt), reading.prompt)):
        length = len(reading.prompt)
        if batch and (len(batch[0].prompt) != length or (len(batch) + 1) * length > batch_tokens):
            yield batch
            batch = []
        batch.append(reading)
    if batch:
        yield batch


def read(network: Any, device: torch.device, batch: list[Reading]) -> None:
    """Fill in the verdicts and greedy continuations of one batch; all prompts have the same length."""
    first, cache = _read_prompts(network, device, [reading.prompt for reading in batch])
    _judge_first_tokens(first, batch)
    rest = [(row, c) for row, r in enumerate(batch) for c in r.continuations.values() if len(c.tokens) > 1]
    rest.sort(key=lambda placed: len(placed[1].tokens))
    for group in _groups(rest, first.shape[-1]):
        _read_rest(network, device, cache, group)
    for reading in batch:
        known = max((c.agreed for c in reading.continuations.values()), key=len)
        reading.greedy = known[: reading.wanted]
    _decode_greedily(network, device, cache, batch)


def _read_prompts(network: Any, device: torch.device, prompts: list[Tokens]) -> tuple[Tensor, Any]:
    """Logits (n, vocabulary) behind each prompt, and the cache that goes on from there."""
    tokens = torch.tensor(prompts, device=device)
    cache, shared = None, shared_length(prompts)
    if shared:
        heads = {prompt[:shared]: None for prompt in prompts}
        places = {head: place for place, head in enumerate(heads)}
        begun = network(input_ids=torch.tensor(list(heads), device=device), use_cache=True, logits_to_keep=1)
        rows = torch.tensor([places[prompt[:shared]] for prompt in prompts], device=device)
        cache = _branch(begun.past_key_values, rows)
    out = network(input_ids=tokens[:, shared:], past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[:, -1].float(), out.past_key_values


def shared_length(prompts: list[Tokens]) -> int:
    """How many leading tokens to read apart, each distinct beginning once; 0 where that saves too little."""
    saved = {
        length: (len(prompts) - len({prompt[:length] for prompt in prompts})) * length
        for length in range(1, len(prompts[0]))
    }
    best = max(saved, key=lambda length: saved[length], default=0)
    return best if best and saved[best] >= WORTH_A_FORWARD else 0


def _judge_first_tokens(first: Tensor, batch: list[Reading]) -> None:
    """`first` (n, vocabulary): the logits behind each prompt."""
    normal, top = first.logsumexp(-1), first.argmax(-1).tolist()
    for row, reading in enumerate(batch):
        for continuation in reading.continuations.values():
            logit = first[row, continuation.tokens[0]]
            logp = (logit - normal[row]).item()
            continuation.argmax = [top[row]]
            if logp == logp:
                continuation.logp = logp / len(continuation.tokens)
                continuation.rank = int((first[row] > logit).sum()) + 1
            else:
                continuation.rank, continuation.argmax = first.shape[-1], [NOTHING]


def _groups(rest: list[_Placed], vocabulary: int) -> Iterator[list[_Placed]]:
    """Continuations, shortest first: of so nearly equal length that padding them costs little, and so many
    together that their logits stay within the bound."""
    group: list[_Placed] = []
    tokens = 0
    for placed in rest:
        length = len(placed[1].tokens)
        padded = (len(group) + 1) * length
        wasted = padded - tokens - length
        if group and (wasted > WORTH_A_FORWARD or padded * vocabulary > LOGITS_AT_ONCE):
            yield group
            group, tokens = [], 0
        group.append(placed)
        tokens += length
    if group:
        yield group


def _read_rest(network: Any, device: torch.device, cache: Any, group: list[_Placed]) -> None:
    """Read all but the last token of each continuation behind its prompt; judge all but the first."""
    width = len(group[-1][1].tokens)
    padded = torch.zeros((len(group), width), dtype=torch.long)
    for row, (_, continuation) in enumerate(group):
        padded[row, : len(continuation.tokens)] = torch.tensor(continuation.tokens)
    padded = padded.to(device)  # what stands right of a token cannot reach it: no mask is needed
    twin = _branch(cache, torch.tensor([row for row, _ in group], device=device))
    logits = network(input_ids=padded[:, :-1], past_key_values=twin, use_cache=True).logits.float()
    at = logits.gather(-1, padded[:, 1:, None]).squeeze(-1) - logits.logsumexp(-1)
    for (_, continuation), logps, said in zip(group, at.tolist(), logits.argmax(-1).tolist(), strict=True):
        length = len(continuation.tokens)
        logp = continuation.logp + sum(logps[: length - 1]) / length
        continuation.logp = logp if logp == logp else float("-inf")
        continuation.argmax += said[: length - 1]


def _branch(cache: Any, rows: Tensor) -> Any:
    """A cache that goes on from the chosen rows; the one it comes from stays as it is.

    The layers hold their tensors by reference and replace them when they grow, so a shallow copy suffices.
    """
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    twin.batch_select_indices(rows)
    return twin


def _decode_greedily(network: Any, device: torch.device, cache: Any, batch: list[Reading]) -> None:
    """Go on to `wanted` tokens where the greedy continuation is not known yet from what was read."""
    left = [reading for reading in batch if len(reading.greedy) < reading.wanted]
    rows = [row for row, reading in enumerate(batch) if len(reading.greedy) < reading.wanted]
    position = 0
    while left:
        cache = _branch(cache, torch.tensor(rows, device=device))
        step = torch.tensor([[max(r.greedy[position], 0)] for r in left], device=device)
        out = network(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        position += 1
        for reading, said in zip(left, out.logits[:, -1].argmax(-1).tolist(), strict=True):
            if len(reading.greedy) == position:
                reading.greedy.append(said)
        rows = [row for row, reading in enumerate(left) if len(reading.greedy) < reading.wanted]
        left = [left[row] for row in rows]
