"""The page of models that can be edited, written from the tiny models of the zoo.

PYTHONPATH=tests/models python tests/models/families_page.py
"""

from __future__ import annotations

from pathlib import Path

from zoo import FAMILIES, REFUSED, model_of

from corrigenda.models.language_model import LanguageModel

PAGE = Path(__file__).parents[2] / "docs/reference/models.md"
HEAD = """# Models that can be edited

Any decoder with one plain MLP projection a layer. Where the layers, the projection, a norm or a factor behind
it and the final norm are is found from the network's structure; before a base is stored the fast path is held
equal to the network's own forward on short rows. What it cannot follow is read *plainly*: every row whole,
through all layers, each time, which takes longer and gives the same.

The families below are tested with tiny models made from configurations of transformers: the fast path against
the whole network at every layer and beyond the window of attention, no residual, a batch against its rows
alone, a whole edit, the published and pulled directory, and release 0 to the bit
(`tests/models/test_conformance.py`; all of them with `CORRIGENDA_LONG=1`). This page is written by
`tests/models/families_page.py`.

| family (`model_type`) | edited map | behind it | windows | read |
|---|---|---|---|---|
"""
FOOT = """
An architecture that is not recognised can be said by hand in its entry, and is held against the network's own
forward like any other:

```toml
[[models]]
name = "own"
source = "./own"
family = { layers = "model.blocks", projection = "ffn.out" }   # and post_norm, gain, stored_transposed
```

## What is refused

| family | why |
|---|---|
"""
END = """
Refused by what the directory holds, before anything is stored: quantised weights (GPTQ, AWQ, bitsandbytes,
compressed-tensors, FP8, torchao), PEFT adapters, pointers of Git LFS, folders of the hub's cache, weights in
other formats than safetensors, models without a tokenizer. Each message says the way out.

## Device and precision

`device` and `dtype` stand in `[defaults]` or in a model's entry. On a CPU a network computes in float32
unless `dtype` says otherwise, elsewhere in what its files hold; what is published keeps the base's own dtype.
Solves are float64, on the CPU. What is measured in another precision than float32 is remembered apart.
"""


def page() -> str:
    rows = "".join(row(kind, model_of(kind)) for kind in sorted(FAMILIES))
    refused = "".join(f"| {kind} | {why} |\n" for kind, (why, _) in sorted(REFUSED.items()))
    return HEAD + rows + FOOT + refused + END


def row(kind: str, model: LanguageModel) -> str:
    family = model.family
    behind = f"`{family.post_norm}`" if family.post_norm else "" if family.gain == 1 else "a factor"
    windows = "" if set(model.windows) == {None} else "yes" if None not in model.windows else "some layers"
    read = "plainly" if model.plain else "fast"
    return f"| {kind} | `{family.projection}` | {behind} | {windows} | {read} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
