"""Background text as token rows: sampled from the base itself, or read from a file or a data set.

`self` needs no corpus at all: what a model says of its own accord is the text whose keys it meets most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from corrigenda.errors import NotFoundError, SetupError, UsageError
from corrigenda.models.batch_invariant import products_in
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.sampling import sample_rows
from corrigenda.settings import Corpus

SUFFIXES = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv", ".txt": "text"}


def background_tokens(
    model: LanguageModel,
    corpus: Corpus,
    *,
    root: Path = Path(),
    advance: Callable[[int], None] = lambda _tokens: None,
) -> Tensor:
    """Token rows (n, corpus.length), int64, with n * length at least `corpus.tokens` where there is
    that much text.

    advance   called with the number of tokens that are new

    Raises NotFoundError for a file that is not there, SetupError for a data set that cannot be fetched.
    """
    if corpus.source == "self":
        rows = -(-corpus.tokens // corpus.length)
        with products_in("auto", model.device):  # twice as fast where bfloat16 is
            return sample_rows(model, rows, corpus.length, corpus.seed, advance)
    return _packed(model, _texts(corpus, root), corpus, advance)


def _texts(corpus: Corpus, root: Path) -> Iterator[str]:
    """Texts of a local file, or of a hub data set's train split (`owner/name` or `owner/name:config`)."""
    from datasets import load_dataset

    path = root / Path(corpus.source).expanduser()
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise NotFoundError("the corpus is not there", remedy="Check `source`", path=str(path))
        kind = SUFFIXES[path.suffix]
        rows = load_dataset(kind, data_files=str(path), split="train")
    else:
        name, _, config = corpus.source.partition(":")
        try:
            rows = load_dataset(name, config or None, split="train", streaming=True)
        except Exception as fault:
            raise SetupError(
                "the corpus cannot be fetched from the hub",
                remedy="Check the network, give a local file, or use `self`",
                source=corpus.source,
            ) from fault
    if rows.column_names is not None and corpus.column not in rows.column_names:
        raise UsageError(
            "the corpus has no such column",
            remedy=f"Set `column` to one of {rows.column_names}",
            column=corpus.column,
            source=corpus.source,
        )
    return (str(row[corpus.column]) for row in rows)


def _packed(
    model: LanguageModel, texts: Iterator[str], corpus: Corpus, advance: Callable[[int], None]
) -> Tensor:
    """Texts joined and cut to rows of equal length, until there are tokens enough."""
    rows: list[list[int]] = []
    rest: list[int] = []
    for text in texts:
        rest += model.tokenizer(text)["input_ids"] if text.strip() else []
        while len(rest) >= corpus.length and len(rows) * corpus.length < corpus.tokens:
            rows.append(rest[: corpus.length])
            rest = rest[corpus.length :]
            advance(corpus.length)
        if len(rows) * corpus.length >= corpus.tokens:
            break
    if not rows:
        raise UsageError(
            "the corpus holds less than one row of text",
            remedy="Give more text, or a smaller `length`",
            source=corpus.source,
            length=corpus.length,
        )
    return torch.tensor(rows, dtype=torch.long)
