"""The names of columns and fields: ours, those of the shapes that people already have, and what is near to
a name.

A name that is known and not taken, or not known at all, is said to whoever hands a file in: a misspelt column
would otherwise be lost without a word. Knows nothing of what the fields hold.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator

from corrigenda.storage.corrections.schemas import CORRECTIONS
from corrigenda.storage.corrections.spelling import spelt

# Fields of CounterFact, EasyEdit, KnowEdit, CKnowEdit, MEND and zsRE, MQuAKE, FastEdit that become something.
PARAPHRASES = ("rephrase_prompt", "rephrase_prompts", "rephrase", "paraphrase_prompts", "queries")
NEIGHBOURS = ("locality", "locality_inputs", "locality_prompt", "locality_ground_truth", "loc", "loc_ans")
OLD_ANSWERS = ("ground_truth", "answers")
TAKEN = frozenset(
    (
        *("requested_rewrite", "neighborhood_prompts", "case_id", "src", "alt", "target"),
        *("concept", "text", "labels", "portability"),
        *PARAPHRASES,
        *NEIGHBOURS,
        *OLD_ANSWERS,
    )
)
# Fields of theirs that say nothing of a correction, its wordings or its neighbours, or nothing that we
# measure.
LEFT = frozenset(
    (
        "attribute_prompts",
        "generation_prompts",
        "questions",
        "single_hops",
        "new_single_hops",
        "orig",
        "answer",
        "answer_alias",
        "new_answer",
        "new_answer_alias",
        "pred",
        "cond",
        "relation_id",
        "pararel_idx",
    )
)
KNOWN = frozenset(CORRECTIONS.names) | TAKEN | LEFT
NEAR = 0.72  # likeness from which on a name may be meant for another


def folded(name: object) -> str:
    """A column's name without what carries no meaning in it: case, blanks, hyphens, invisible signs."""
    return spelt(str(name)).strip("\"'").casefold().replace(" ", "_").replace("-", "_")


def near(name: str, among: Iterable[str] = KNOWN) -> str | None:
    """The name that was probably meant; None when nothing is like it."""
    found = difflib.get_close_matches(name, sorted(among), 1, NEAR)
    return found[0] if found else None


def unknown_notes(names: Iterable[str], rows: Counter[str] | None = None) -> Iterator[str]:
    """One sentence for each column that nobody reads, with the name that was probably meant."""
    for name in dict.fromkeys(names):
        if not name or name in CORRECTIONS.names or name in TAKEN:
            continue
        count = f" ({rows[name]} rows)" if rows else ""
        meant = near(name, frozenset(CORRECTIONS.names) | TAKEN) if name not in LEFT else None
        yield f"{name} is not taken{count}" + (f"; is it {meant}?" if meant else "")


def missing_hint(missing: Iterable[str], there: Iterable[str]) -> str:
    """Which of the columns that are there may have been meant for those that are missing."""
    others = [name for name in there if name not in CORRECTIONS.names]
    pairs = [(name, near(name, others)) for name in missing]
    said = [f"is `{there}` meant for `{name}`?" for name, there in pairs if there]
    return f"; {' '.join(said)}" if said else ""
