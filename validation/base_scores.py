"""Scores of the pristine base: what later releases are compared with, computed once per question.

The base never changes, so a probe's scores under it are kept for ever, in packs that the caller stores under
the digest of `scope`. A pack holds a night's new questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from corrigenda.facts import Progress, digest_of
from corrigenda.stored import UnreadableError, rows_of
from corrigenda.validation.probes import RIVALLED, Probe
from corrigenda.validation.scoring import SCORING_VERSION, score
from corrigenda.validation.tables import SCORES

if TYPE_CHECKING:
    from corrigenda.models.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class BaseScores:
    """The base's view of all probes.

    probes   with a rival for each rewrite and paraphrase: where no old answer was given, what the base says
    scores   one row of SCORES for each probe, in their order
    fresh    a pack of what was not known before, to be remembered; None when all was known
    """

    probes: tuple[Probe, ...]
    scores: pa.Table
    fresh: bytes | None


def scope(weights_digest: str, tokenizer_digest: str) -> str:
    """The digest under which packs of a base's scores are kept."""
    return digest_of(["base scores", SCORING_VERSION, weights_digest, tokenizer_digest])


def score_base(
    base: LanguageModel,
    probes: Sequence[Probe],
    known: Iterable[bytes] = (),
    *,
    progress: Progress | None = None,
) -> BaseScores:
    """Scores of `probes` under the base; only questions that no pack in `known` answers are computed."""
    answers = _read_packs(known)
    new = list({p.question: p for p in probes if p.question not in answers}.values())
    fresh = _answer(base, new, progress) if new else {}
    answers = answers | fresh
    settled = tuple(replace(probe, other=answers[probe.question]["other"]) for probe in probes)
    rows = [answers[probe.question] | {"probe_id": probe.probe_id} for probe in probes]
    table = pa.Table.from_pylist(rows, schema=SCORES)
    return BaseScores(settled, table, _pack(fresh) if fresh else None)


def settle(base: LanguageModel, probes: Sequence[Probe], progress: Progress | None = None) -> list[Probe]:
    """Give each rewrite and paraphrase without an old answer what the base says, as its rival.

    Where the base already says what is expected there is no rival, and to pass is to go on saying it.
    """
    open_ones = [probe for probe in probes if probe.other is None and probe.kind in RIVALLED]
    table = score(base, open_ones, progress=progress)
    said = {
        probe.question: says.strip() or None
        for probe, says, begins in zip(
            open_ones, table["says"].to_pylist(), table["begins"].to_pylist(), strict=True
        )
        if not begins
    }
    return [replace(p, other=said.get(p.question)) if p.other is None else p for p in probes]


def _answer(base: LanguageModel, probes: list[Probe], progress: Progress | None) -> dict[str, dict[str, Any]]:
    settled = settle(base, probes)
    table = score(base, settled, progress=progress)
    return {
        probe.question: row | {"other": now.other}
        for probe, now, row in zip(probes, settled, table.to_pylist(), strict=True)
    }


_PACK = pa.schema([pa.field("question", pa.string()), pa.field("other", pa.string()), *SCORES])


def _pack(answers: Mapping[str, dict[str, Any]]) -> bytes:
    rows = [{"question": question} | row for question, row in sorted(answers.items())]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_PACK), sink, compression="zstd")
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _read_packs(packs: Iterable[bytes]) -> dict[str, dict[str, Any]]:
    """Answers by question. A pack that cannot be read is as good as none: its questions are asked again."""
    answers: dict[str, dict[str, Any]] = {}
    for body in packs:
        try:
            rows = rows_of(body, _PACK, lacks=())
        except UnreadableError:
            continue
        answers |= {row.pop("question"): row for row in rows}
    return answers
