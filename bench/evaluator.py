"""CounterFact's scores from their definitions, by plain transformers: none of corrigenda's code.

Meng et al. 2022 (ROME, section 3.3): for each record, ES = [P(new) > P(true)] on the edit prompt, PS = the
share of paraphrase prompts on which P(new) > P(true), NS = the share of neighbourhood prompts on which
P(true) > P(new); each is then averaged over records. P is compared by the mean log-probability of an
answer's tokens, the answer tokenised as a blank and its text, as in the authors' evaluator. A neighbourhood
prompt that is the edit or paraphrase prompt of a record of the batch asks for the opposite of what that
record wants, and is dropped; a record without any neighbour left has no NS.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PLACES = 12  # of a mean of means; beyond, floating point adds in one order or another
AT_ONCE = 32  # texts in a forward, padded on the right


class Evaluator:
    """A checkpoint directory, and CounterFact's questions to it."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()

    def scores(self, records: Sequence[dict[str, Any]]) -> dict[str, float]:
        """ES, PS and NS, and NS and PS over all prompts alike (`…_by_prompt`).

        records   prompt, subject, new, true, paraphrases, neighbours (prompts)
        """
        asked = {r["prompt"].replace("{}", r["subject"]) for r in records}
        asked |= {text for r in records for text in r["paraphrases"]}
        won: dict[str, list[list[bool]]] = {"es": [], "ps": [], "ns": []}
        self._know([(p, a) for r in records for p in _prompts(r) for a in (r["new"], r["true"])])
        for r in records:
            new, true = r["new"], r["true"]
            won["es"].append([self._likelier(r["prompt"].replace("{}", r["subject"]), new, true)])
            won["ps"].append([self._likelier(text, new, true) for text in r["paraphrases"]])
            near = [text for text in r["neighbours"] if text not in asked]
            won["ns"].append([self._likelier(text, true, new) for text in near])
        by_record = {name: [_share(some) for some in found if some] for name, found in won.items()}
        by_prompt = {name: _share([one for some in found for one in some]) for name, found in won.items()}
        return {name: round(float(sum(all_) / len(all_)), PLACES) for name, all_ in by_record.items()} | {
            f"{name}_by_prompt": float(share) for name, share in by_prompt.items()
        }

    def _likelier(self, prompt: str, one: str, other: str) -> bool:
        return self.known[prompt, one] > self.known[prompt, other]

    @torch.inference_mode()
    def _know(self, questions: Sequence[tuple[str, str]]) -> None:
        """Mean log-probability of each answer behind its prompt."""
        self.known: dict[tuple[str, str], float] = {}
        distinct = sorted(set(questions), key=lambda question: (len(question[0]), question))
        for first in range(0, len(distinct), AT_ONCE):
            some = distinct[first : first + AT_ONCE]
            starts = [self.tokenizer(prompt)["input_ids"] for prompt, _ in some]
            ends = [self.tokenizer(f" {a}", add_special_tokens=False)["input_ids"] for _, a in some]
            rows = [start + end for start, end in zip(starts, ends, strict=True)]
            width = max(map(len, rows))
            tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            there = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
            logits = self.network(input_ids=tokens, attention_mask=there).logits
            for question, start, end, row in zip(some, starts, ends, logits, strict=True):
                behind = row[len(start) - 1 : len(start) + len(end) - 1].double().log_softmax(-1)
                self.known[question] = fmean(behind[i, token].item() for i, token in enumerate(end))


def _share(won: Sequence[bool]) -> Fraction:
    return Fraction(sum(won), len(won))


def _prompts(record: dict[str, Any]) -> list[str]:
    own = record["prompt"].replace("{}", record["subject"])
    return [own, *record["paraphrases"], *record["neighbours"]]
