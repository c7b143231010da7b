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

from corrigenda.facts import Progress
from corrigenda.models.encoding import Tokens
from corrigenda.validation.answers import Form, match, natural_end, without_cut_word
from corrigenda.validation.encoding import (
    decode,
    encode_chat,
    encode_continuations,
    encode_prompts,
    encode_replies,
)
from corrigenda.validation.probes import ANSWERED, Probe
from corrigenda.validation.reading import (
    NOTHING,
    Continuation,
    Reading,
    batches,
    leave_unread,
    read,
)
from corrigenda.validation.tables import SCORES

if TYPE_CHECKING:
    from corrigenda.models.language_model import LanguageModel

SCORING_VERSION = 6  # part of the key of every cached score
ANSWER_TOKENS = 16  # of an answer that comes to no natural stop; what is half a word then does not count

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
    _ask_for_answers(model, probes, questions, readings)
    readable = [reading for reading in readings.values() if reading.longest <= model.longest]
    for reading in readings.values():
        if reading.longest > model.longest:
            leave_unread(reading, model.network.config.get_text_config().vocab_size)
    with torch.inference_mode():
        for batch in batches(readable, batch_tokens):
            read(model, batch)
            if progress:
                progress(sum(reading.asked for planted in batch for reading in planted.readings))
    return _table(model, probes, questions, readings)


def _encode(tokenizer: Any, probes: Sequence[Probe]) -> list[_Question]:
    found: dict[int, _Question] = {}
    # In one call for each way to be asked: a tokenizer is slow to call.
    for chat in (True, False):
        some = [(place, p) for place, p in enumerate(probes) if (p.form == "chat") == chat]
        texts = [(p.prompt, text) for _, p in some for text in (p.expected, p.other) if text is not None]
        behind, said = [prompt for prompt, _ in texts], [text for _, text in texts]
        if chat:
            prompts = [encode_chat(tokenizer, p.prompt, p.system) for _, p in some]
            tokens = iter(encode_replies(tokenizer, said))
        else:
            prompts = encode_prompts(tokenizer, [p.prompt for _, p in some])
            tokens = iter(encode_continuations(tokenizer, said, behind))
        for (place, probe), prompt in zip(some, prompts, strict=True):
            found[place] = prompt, next(tokens), None if probe.other is None else next(tokens)
    return [found[place] for place in range(len(probes))]


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


def _ask_for_answers(
    model: LanguageModel,
    probes: Sequence[Probe],
    questions: Sequence[_Question],
    readings: dict[Tokens, Reading],
) -> None:
    """Have the readings of probes that want an answer go on to its natural stop."""
    ends = model.ends
    for probe, (prompt, _, _) in zip(probes, questions, strict=True):
        if probe.kind in ANSWERED:
            reading = readings[prompt]
            reading.over = _stop(model.tokenizer, ends, probe.form)
            reading.most = max(reading.wanted, min(ANSWER_TOKENS, model.longest - len(prompt)))


def _stop(tokenizer: Any, ends: frozenset[int], form: Form) -> Callable[[list[int]], bool]:
    def over(greedy: list[int]) -> bool:
        if not ends.isdisjoint(greedy):
            return True
        return form != "chat" and natural_end(decode(tokenizer, greedy), form) is not None

    return over


def _answer(model: LanguageModel, greedy: Sequence[int], form: Form) -> str:
    """The text of an answer up to its natural stop."""
    if NOTHING in greedy:
        return ""
    ended = next((place for place, token in enumerate(greedy) if token in model.ends), None)
    text = decode(model.tokenizer, greedy[:ended])
    end = natural_end(text, form)
    if end is None and ended is None:
        text = without_cut_word(text)
    return text[:end].strip()


def _table(
    model: LanguageModel,
    probes: Sequence[Probe],
    questions: Sequence[_Question],
    readings: dict[Tokens, Reading],
) -> pa.Table:
    rows = []
    for probe, (prompt, expected, other) in zip(probes, questions, strict=True):
        reading = readings[prompt]
        verdict = reading.continuations[expected]
        rival = None if other is None else reading.continuations[other]
        rows.append(_row(model, probe, verdict, rival, reading.greedy))
    return pa.Table.from_pylist(rows, schema=SCORES)


def _row(
    model: LanguageModel,
    probe: Probe,
    verdict: Continuation,
    rival: Continuation | None,
    whole: Sequence[int],
) -> dict[str, Any]:
    tokenizer, greedy = model.tokenizer, whole[: len(verdict.tokens)]
    says = "" if NOTHING in greedy else decode(tokenizer, greedy)
    row = {
        "probe_id": probe.probe_id,
        "logp_expected": verdict.logp,
        "logp_other": None if rival is None else rival.logp,
        "tokens": len(verdict.tokens),
        "tokens_other": None if rival is None else len(rival.tokens),
        "rank": verdict.rank,
        "says": says,
        "begins": NOTHING not in greedy and says == decode(tokenizer, verdict.tokens),
        "top": decode(tokenizer, greedy[:1]) if says else "",
    }
    if probe.kind in ANSWERED:
        answer = _answer(model, whole, probe.form)
        found = match(answer, (probe.expected, *probe.aliases), probe.other)
        row |= {"answer": answer, "said": found.said(probe.form), "old": found.old}
        row |= {"begins": found.begins, "contains": found.contains, "exact": found.exact}
    return row


def reference_score(model: LanguageModel, probes: Sequence[Probe]) -> pa.Table:
    """What `score` computes, the plain way: every continuation in a forward of its own, from the start."""
    questions = _encode(model.tokenizer, probes)
    rows = []
    with torch.inference_mode():
        for probe, (prompt, expected, other) in zip(probes, questions, strict=True):
            alone = _gather([(prompt, expected, other)])
            _ask_for_answers(model, [probe], [(prompt, expected, other)], alone)
            reading = alone[prompt]
            if reading.longest > model.longest:
                leave_unread(reading, model.network.config.get_text_config().vocab_size)
                verdict = reading.continuations[expected]
                rival = None if other is None else reading.continuations[other]
            else:
                verdict = _reference_read(model, prompt, expected)
                rival = None if other is None else _reference_read(model, prompt, other)
                reading.greedy = list(verdict.agreed)
                while reading.goes_on:
                    whole = torch.tensor([prompt + tuple(reading.greedy)], device=model.device)
                    reading.greedy.append(int(model.network(input_ids=whole).logits[0, -1].argmax()))
            rows.append(_row(model, probe, verdict, rival, reading.greedy))
    return pa.Table.from_pylist(rows, schema=SCORES)


def _reference_read(model: LanguageModel, prompt: Tokens, tokens: Tokens) -> Continuation:
    whole = torch.tensor([prompt + tokens], device=model.device)
    logits = model.network(input_ids=whole).logits[0, len(prompt) - 1 : -1].float()
    chosen = torch.tensor(tokens, device=model.device)
    at = logits.log_softmax(-1).gather(-1, chosen[:, None]).squeeze(-1)
    rank = int((logits[0] > logits[0, tokens[0]]).sum()) + 1
    return Continuation(tokens, at.tolist(), rank, logits.argmax(-1).tolist())
