"""Scores of probes under a model: log-probabilities, ranks and what greedy decoding says.

Fast because it skips work whose result is known, never by another algorithm: a prompt is read once, however
many continuations follow it; prompts of equal length go through the network together, so that nothing is
padded and no mask is needed; logits are computed only at the positions that are read. `reference_score` is
the plain path, one continuation per forward; a property test holds the two equal.

A log-probability here is the *mean over the continuation's tokens*, in nats, as in CounterFact's evaluator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor

from corrigenda.validation.encoding import Tokens, decode, encode_continuations, encode_prompts
from corrigenda.validation.probes import Probe
from corrigenda.validation.tables import SCORES

if TYPE_CHECKING:
    from corrigenda.models.loading import LanguageModel

SCORING_VERSION = 1  # part of the key of every cached score
LOGITS_AT_ONCE = 2**25  # floats; 128 MiB

Progress = Callable[[int], None]  # is told how many more prompts are done


@dataclass(slots=True)
class _Continuation:
    """Tokens after a prompt, and the model's verdict on them once it has read them."""

    tokens: Tokens
    logp: float = float("-inf")
    rank: int = 0
    argmax: list[int] = field(default_factory=list)  # greedy choice at each position, given the tokens before

    @property
    def agreed(self) -> list[int]:
        """The greedy continuation as far as reading `tokens` shows it: up to the first other choice."""
        for position, (said, wanted) in enumerate(zip(self.argmax, self.tokens, strict=True)):
            if said != wanted:
                return self.argmax[: position + 1]
        return self.argmax


_Placed = tuple[int, _Continuation]  # and the row of the prompt that it follows


@dataclass(slots=True)
class _Reading:
    """A prompt with everything that is asked of it."""

    prompt: Tokens
    continuations: dict[Tokens, _Continuation] = field(default_factory=dict)
    wanted: int = 1  # tokens of greedy continuation
    greedy: list[int] = field(default_factory=list)


def score(
    model: LanguageModel,
    probes: Sequence[Probe],
    *,
    batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> pa.Table:
    """Scores of `probes`, in their order, as the table SCORES.

    batch_tokens   prompt tokens that go through the network together; bounds the memory

    A model that answers with NaN gets log-probability -inf, the last rank, and begins with nothing.
    """
    questions = _encode(model.tokenizer, probes)
    readings = _gather(questions)
    with torch.inference_mode():
        for batch in _batches(readings.values(), batch_tokens):
            _read(model.network, model.device, batch)
            if progress:
                progress(len(batch))
    return _table(model.tokenizer, probes, questions, readings)


_Question = tuple[Tokens, Tokens, Tokens | None]  # prompt, expected, other


def _encode(tokenizer: Any, probes: Sequence[Probe]) -> list[_Question]:
    prompts = encode_prompts(tokenizer, [probe.prompt for probe in probes])
    expected = encode_continuations(tokenizer, [probe.expected for probe in probes])
    rivals = iter(encode_continuations(tokenizer, [p.other for p in probes if p.other is not None]))
    others = [None if probe.other is None else next(rivals) for probe in probes]
    return list(zip(prompts, expected, others, strict=True))


def _gather(questions: Sequence[_Question]) -> dict[Tokens, _Reading]:
    readings: dict[Tokens, _Reading] = {}
    for prompt, expected, other in questions:
        reading = readings.setdefault(prompt, _Reading(prompt))
        reading.wanted = max(reading.wanted, len(expected))
        for tokens in (expected, other):
            if tokens is not None:
                reading.continuations.setdefault(tokens, _Continuation(tokens))
    return readings


def _batches(readings: Any, batch_tokens: int) -> Iterator[list[_Reading]]:
    """Readings of equal prompt length, shortest first, at most `batch_tokens` prompt tokens together."""
    batch: list[_Reading] = []
    for reading in sorted(readings, key=lambda reading: len(reading.prompt)):
        length = len(reading.prompt)
        if batch and (len(batch[0].prompt) != length or (len(batch) + 1) * length > batch_tokens):
            yield batch
            batch = []
        batch.append(reading)
    if batch:
        yield batch


def _read(network: Any, device: torch.device, batch: list[_Reading]) -> None:
    """Fill in the verdicts of one batch; all prompts have the same length."""
    prompts = torch.tensor([reading.prompt for reading in batch], device=device)
    out = network(input_ids=prompts, use_cache=True, logits_to_keep=1)
    first = out.logits[:, -1].float()
    cache = out.past_key_values
    _judge_first_tokens(first, batch)
    rest = [(row, c) for row, r in enumerate(batch) for c in r.continuations.values() if len(c.tokens) > 1]
    rest.sort(key=lambda pair: len(pair[1].tokens))
    for group in _groups(rest, first.shape[-1]):
        _read_rest(network, device, cache, group)
    for reading in batch:
        known = max((c.agreed for c in reading.continuations.values()), key=len)
        reading.greedy = known[: reading.wanted]
    _decode_greedily(network, device, cache, batch)


def _judge_first_tokens(first: Tensor, batch: list[_Reading]) -> None:
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
                continuation.rank, continuation.argmax = first.shape[-1], [-1]


def _groups(
    rest: list[tuple[int, _Continuation]], vocabulary: int
) -> Iterator[list[tuple[int, _Continuation]]]:
    """Continuations, shortest first, so many together that their logits stay within the bound."""
    start = 0
    while start < len(rest):
        stop = start + 1
        while (
            stop < len(rest) and (stop + 1 - start) * len(rest[stop][1].tokens) * vocabulary <= LOGITS_AT_ONCE
        ):
            stop += 1
        yield rest[start:stop]
        start = stop


def _read_rest(network: Any, device: torch.device, cache: Any, group: list[_Placed]) -> None:
    """Read all but the last token of each continuation behind its prompt; judge all but the first."""
    width = len(group[-1][1].tokens) - 1
    padded = torch.zeros((len(group), width + 1), dtype=torch.long)
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


def _decode_greedily(network: Any, device: torch.device, cache: Any, batch: list[_Reading]) -> None:
    """Go on to `wanted` tokens where the greedy continuation is not known yet from what was read."""
    rows = [row for row, reading in enumerate(batch) if len(reading.greedy) < reading.wanted]
    if not rows:
        return
    cache = _branch(cache, torch.tensor(rows, device=device))
    for position in range(max(batch[row].wanted for row in rows) - 1):
        step = torch.tensor([[_at(batch[row].greedy, position)] for row in rows], device=device)
        out = network(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
        for row, said in zip(rows, out.logits[:, -1].argmax(-1).tolist(), strict=True):
            reading = batch[row]
            if len(reading.greedy) == position + 1 < reading.wanted:
                reading.greedy.append(said)


def _at(greedy: list[int], position: int) -> int:
    return max(greedy[min(position, len(greedy) - 1)], 0)


def _table(
    tokenizer: Any, probes: Sequence[Probe], questions: Sequence[_Question], readings: dict[Tokens, _Reading]
) -> pa.Table:
    rows = []
    for probe, (prompt, expected, other) in zip(probes, questions, strict=True):
        reading = readings[prompt]
        verdict = reading.continuations[expected]
        rival = None if other is None else reading.continuations[other].logp
        rows.append(_row(tokenizer, probe, verdict, rival, reading.greedy[: len(expected)]))
    return pa.Table.from_pylist(rows, schema=SCORES)


def _row(
    tokenizer: Any, probe: Probe, verdict: _Continuation, rival: float | None, greedy: list[int]
) -> dict[str, Any]:
    says = "" if -1 in greedy else decode(tokenizer, greedy)
    return {
        "probe_id": probe.probe_id,
        "logp_expected": verdict.logp,
        "logp_other": rival,
        "tokens": len(verdict.tokens),
        "rank": verdict.rank,
        "says": says,
        "begins": -1 not in greedy and says == decode(tokenizer, verdict.tokens),
        "top": decode(tokenizer, greedy[:1]) if says else "",
    }


def reference_score(model: LanguageModel, probes: Sequence[Probe]) -> pa.Table:
    """What `score` computes, the plain way: every continuation in a forward of its own, from the start."""
    questions = _encode(model.tokenizer, probes)
    rows = []
    with torch.inference_mode():
        for probe, (prompt, expected, other) in zip(probes, questions, strict=True):
            verdict = _reference_read(model, prompt, expected)
            rival = None if other is None else _reference_read(model, prompt, other).logp
            greedy = _reference_greedy(model, prompt, len(expected))
            rows.append(_row(model.tokenizer, probe, verdict, rival, greedy))
    return pa.Table.from_pylist(rows, schema=SCORES)


def _reference_read(model: LanguageModel, prompt: Tokens, tokens: Tokens) -> _Continuation:
    whole = torch.tensor([prompt + tokens], device=model.device)
    logits = model.network(input_ids=whole).logits[0, len(prompt) - 1 : -1].float()
    chosen = torch.tensor(tokens, device=model.device)
    at = logits.log_softmax(-1).gather(-1, chosen[:, None]).squeeze(-1)
    rank = int((logits[0] > logits[0, tokens[0]]).sum()) + 1
    return _Continuation(tokens, at.mean().item(), rank, logits.argmax(-1).tolist())


def _reference_greedy(model: LanguageModel, prompt: Tokens, count: int) -> list[int]:
    said: list[int] = []
    for _ in range(count):
        whole = torch.tensor([prompt + tuple(said)], device=model.device)
        said.append(int(model.network(input_ids=whole).logits[0, -1].argmax()))
    return said
