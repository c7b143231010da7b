"""Rows of one file that would replace one another without a word: one id, one time, different questions.

A later row may well speak of its correction in other words: it has a later time. Of two rows at one time
nobody can say which is meant to hold, and most often they are two facts: ids that a spreadsheet has
rounded, or a count that began anew.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corrigenda.storage.corrections.conform import Mask
from corrigenda.storage.corrections.rules import normalised

_KEYS = ["correction_id", "model", "asserted_at"]


def sharing_an_id(good: pa.Table) -> Mask:
    """Which upserts share id, selector and time with one that has another subject or prompt."""
    upserts = good.append_column("row", pa.array(np.arange(len(good)))).filter(
        pc.equal(good["action"], "upsert")
    )
    fact = pc.binary_join_element_wise(upserts["subject"], upserts["prompt"], "\x00")
    groups = (
        upserts.append_column("fact", fact).group_by(_KEYS).aggregate([("fact", "distinct"), ("row", "list")])
    )
    mask = np.zeros(len(good), bool)
    several = groups.filter(pc.greater(pc.list_value_length(groups["fact_distinct"]), 1))
    for group in several.to_pylist():
        asked = {
            (normalised(s), p) for s, _, p in (fact.partition("\x00") for fact in group["fact_distinct"])
        }
        mask[group["row_list"]] = len(asked) > 1
    return mask
