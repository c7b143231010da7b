"""Scores of probes under a model: log-probabilities, ranks and what greedy decoding says.

Fast because it skips work whose result is known (see `reading`), never by another algorithm.
`reference_score` is the plain path, one continuation per forward; a property test holds the two equal.

A log-probability here is the *mean over the continuation's tokens*, in nats, as in CounterFact's evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch

from corrigenda.validation.encoding import decode, encode_continuations, encode_prompts
from corrigenda.validation.probes import Probe
from corrigenda.validation.reading import (
    NOTHING,
    Continuation,
    Reading,
    Tokens,
    batches,
    leave_unread,
    read,
)
from corrigenda.validation.tables import SCORES

if TYPE_CHECKING:
    from corrigenda.models.language_model import LanguageModel

SCORING_VERSION = 4  # part of the key of every cached score

Progress = Callable[[int], None]  # is told how many more probes are done
_Question = tuple[Tokens, Tokens, Tokens | None]  # prompt, expected, other


def score(
    model: LanguageModel,
    probes: Sequence[Probe],
    *,
    batch_tokens: int = 2048,
    progress: Progress | None = None,
) -> pa.Table:
    """Scores of `probes`, in their order, as the table SCORES.

    batch_tokens   tokens that go through the network together; bounds the memory

    A model that answers with NaN gets log-probability -inf, the last rank, and begins with nothing; so does
    one that cannot read a probe, because it is longer than its last position.
    """
    questions = _encode(model.tokenizer, probes)
    readings = _gather(questions)
    readable = [reading for reading in readings.values() if reading.longest <= model.longest]
    for reading in readings.values():
        if reading.longest > model.longest:
            leave_unread(reading, model.network.config.get_text_config().vocab_size)
    with torch.inference_mode():
        for batch in batches(readable, batch_tokens):
            read(model, batch)
            if progress:
                progress(sum(reading.asked for planted in batch for reading in planted.readings))
    return _table(model.tokenizer, probes, questions, readings)


def _encode(tokenizer: Any, probes: Sequence[Probe]) -> list[_Question]:
    prompts = encode_prompts(tokenizer, [probe.prompt for probe in probes])
    asked = [probe.prompt for probe in probes]
    expected = encode_continuations(tokenizer, [probe.expected for probe in probes], asked)
    rivalled = [(p.other, p.prompt) for p in probes if p.other is not None]
    others_, behind = [other for other, _ in rivalled], [prompt for _, prompt in rivalled]
    rivals = iter(encode_continuations(tokenizer, others_, behind))
    others = [None if probe.other is None else next(rivals) for probe in probes]
    return list(zip(prompts, expected, others, strict=True))


def _gather(questions: Sequence[_Question]) -> dict[Tokens, Reading]:
    readings: dict[Tokens, Reading] = {}
    for prompt, expected, other in questions:
        reading = readings.setdefault(prompt, Reading(prompt))
        reading.asked += 1
        reading.wanted = max(reading.wanted, len(expected))
        for tokens in (expected, other):
            if tokens is not None:
                reading.continuations.setdefault(tokens, Continuation(tokens))
    return readings


def _table(
    tokenizer: Any, probes: Sequence[Probe], questions: Sequence[_Question], readings: dict[Tokens, Reading]
) -> pa.Table:
    rows = []
    for probe, (prompt, expected, other) in zip(probes, questions, strict=True):
        reading = readings[prompt]
        verdict = reading.continuations[expected]
        rival = None if other is None else reading.continuations[other].logp
        rows.append(_row(tokenizer, probe, verdict, rival, reading.greedy[: len(expected)]))
    return pa.Table.from_pylist(rows, schema=SCORES)


def _row(
    tokenizer: Any, probe: Probe, verdict: Continuation, rival: float | None, greedy: list[int]
) -> dict[str, Any]:
    says = "" if NOTHING in greedy else decode(tokenizer, greedy)
    return {
        "probe_id": probe.probe_id,
        "logp_expected": verdict.logp,
        "logp_other": rival,
        "tokens": len(verdict.tokens),
        "rank": verdict.rank,
        "says": says,
        "begins": NOTHING not in greedy and says == decode(tokenizer, verdict.tokens),
        "top": decode(tokenizer, greedy[:1]) if says else "",
    }


def reference_score(model: LanguageModel, probes: Sequence[Probe]) -> pa.Table:
    """What `score` computes, the plain way: every continuation in a forward of its own, from the start."""
    questions = _encode(model.tokenizer, probes)
    rows = []
    with torch.inference_mode():
        for probe, (prompt, expected, other) in zip(probes, questions, strict=True):
            reading = _gather([(prompt, expected, other)])[prompt]
            if reading.longest > model.longest:
                leave_unread(reading, model.network.config.get_text_config().vocab_size)
                rival = None if other is None else reading.continuations[other].logp
                verdict = reading.continuations[expected]
                rows.append(_row(model.tokenizer, probe, verdict, rival, reading.greedy))
                continue
            verdict = _reference_read(model, prompt, expected)
            rival = None if other is None else _reference_read(model, prompt, other).logp
            greedy = _reference_greedy(model, prompt, verdict.agreed, len(expected))
            rows.append(_row(model.tokenizer, probe, verdict, rival, greedy))
    return pa.Table.from_pylist(rows, schema=SCORES)


def _reference_read(model: LanguageModel, prompt: Tokens, tokens: Tokens) -> Continuation:
    whole = torch.tensor([prompt + tokens], device=model.device)
    logits = model.network(input_ids=whole).logits[0, len(prompt) - 1 : -1].float()
    chosen = torch.tensor(tokens, device=model.device)
    at = logits.log_softmax(-1).gather(-1, chosen[:, None]).squeeze(-1)
    rank = int((logits[0] > logits[0, tokens[0]]).sum()) + 1
    return Continuation(tokens, at.tolist(), rank, logits.argmax(-1).tolist())


def _reference_greedy(model: LanguageModel, prompt: Tokens, known: list[int], count: int) -> list[int]:
    """Greedy decoding from where the teacher-forced forward has shown it already."""
    said = list(known)
    while len(said) < count:
        whole = torch.tensor([prompt + tuple(said)], device=model.device)
        said.append(int(model.network(input_ids=whole).logits[0, -1].argmax()))
    return said
