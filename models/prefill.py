"""Rows are read once: through the edited layer whole, above it their prefixes alone.

What an edit cannot change is computed here; `models/upper.py` does the rest, again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from corrigenda.models.batch_invariant import in_this_thread
from corrigenda.models.encoding import Aligned, TokenRow, align
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.layer_calls import cache_argument, named_arguments, takes_of, unused_arguments
from corrigenda.models.lower import run_through
from corrigenda.models.plain_rows import PlainRows, read_plainly
from corrigenda.models.prefix_cache import WIDTH_STEP, Openings
from corrigenda.models.structure import hidden_of
from corrigenda.models.upper import Attention, Prefilled, additive_masks, cut_rotary

# What lengths of prefixes are rounded up to: fewer of them make fuller batches.
PREFIX_STEP = 4


@dataclass(slots=True)
class _Reading:
    """The first few columns of some rows, behind their openings, as one layer after another reads them.

    It is what attention asks of a cache, too. Between openings and rows stand columns that nobody sees: they
    make the width a whole number of vector registers, for a product's last bits depend on where in memory
    its rows begin.
    """

    rows: Aligned
    openings: Openings | None
    numbers: Tensor
    begun: Tensor  # (rows, width) bool: the openings' columns that are not padding
    columns: int
    model: LanguageModel
    masks: dict[int | None, Tensor] = field(init=False)
    kept: dict[int, Attention] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.masks = _masks(self.model, self.begun, self.rows, self._padding, 0, self.columns)

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> Attention:
        self.kept[layer] = key, value
        return self._behind_openings(layer, self._padding)

    def give_up(self, layer: int, padding: int) -> Attention:
        """The keys and values of `layer`, the openings' included; they are kept no longer.

        padding   columns of zeros between the two
        """
        found = self._behind_openings(layer, padding)
        del self.kept[layer]
        return found

    def _behind_openings(self, layer: int, padding: int) -> Attention:
        found = []
        for i, new in enumerate(self.kept[layer]):
            begun = (
                new[:, :, :0] if self.openings is None else self.openings.attention[layer][i][self.numbers]
            )
            zeros = new.new_zeros(*new.shape[:2], padding, new.shape[3])
            found.append(torch.cat((begun, zeros, new), dim=2))
        return found[0], found[1]

    def told(self, number: int, rotary: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
        """The arguments of layer `number` when it reads these columns."""
        layer = self.model.layers[number]
        offered = {
            "attention_mask": self.masks[self.model.windows[number]],
            "position_ids": self.rows.positions[:, : self.columns],
            cache_argument(layer): self,
        }
        return takes_of(layer, offered) | cut_rotary(rotary, slice(0, self.columns), len(self.begun))

    @property
    def _padding(self) -> int:
        return -self.columns % WIDTH_STEP


@torch.no_grad()
def prefill(
    model: LanguageModel,
    layer: int,
    rows: Sequence[TokenRow],
    openings: Openings | None = None,
    *,
    prefix: int = 0,
    suffix: int = 0,
) -> Prefilled | PlainRows:
    """Run rows through the edited layer, and their prefixes through those above it.

    openings         those of the rows; they are not read again
    prefix, suffix   columns before the lookups and from them on, at least, of what is returned

    Rows with prefixes of nearly one length are read together: most are short, and padding costs as much as
    text.
    """
    if model.plain:
        return read_plainly(model, layer, rows, prefix=prefix, suffix=suffix)
    lengths = [row.lookup - row.opening for row in rows]
    prefix = max(prefix, *lengths)
    suffix = max(suffix, *(len(row.tokens) - row.lookup for row in rows))
    columns = [min(-(-length // PREFIX_STEP) * PREFIX_STEP, prefix) for length in lengths]
    parts, order = [], []
    for count in sorted(set(columns)):
        same = [i for i, own in enumerate(columns) if own == count]
        some = align([rows[i] for i in same], device=model.device, prefix=count, suffix=suffix)
        parts.append(_prefilled(model, layer, some, openings, prefix))
        order += same
    return Prefilled.joined(parts, torch.tensor(order, device=model.device).argsort())


def _prefilled(
    model: LanguageModel, layer: int, rows: Aligned, openings: Openings | None, prefix: int
) -> Prefilled:
    """Rows of one length of prefix, as if their prefixes had `prefix` columns."""
    numbers = rows.tokens.new_zeros(len(rows.tokens)) if openings is None else openings.numbers(rows.openings)
    begun = rows.present[:, :0] if openings is None else openings.present[numbers]
    texts = _Reading(rows, openings, numbers, begun, rows.tokens.shape[1], model)
    # One column at least, lest the layers have nothing to do.
    prefixes = _Reading(rows, openings, numbers, begun, max(rows.split, 1), model)
    seen: dict[str, Tensor] = {}
    extras: dict[int, dict[str, Any]] = {}

    def keep_projected(_module: Any, _inputs: Any, out: Tensor) -> None:
        seen["projected"] = out[:, rows.split]

    def keep_hidden(_module: Any, _inputs: Any, out: Any) -> None:
        seen["hidden"] = hidden_of(out)[:, rows.split :]

    def instead(number: int) -> Any:
        above = number > layer
        reading = prefixes if above else texts

        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
            given = named_arguments(module, args, kwargs)
            rotary, unused = given.get("position_embeddings"), unused_arguments(module, given)
            if above:
                extras[number] = unused | cut_rotary(rotary, slice(rows.split, None), len(begun))
            return (args[0][:, : reading.columns],), unused | reading.told(number, rotary)

        return in_this_thread(hook)

    hooks = [
        model.projection(layer).register_forward_hook(in_this_thread(keep_projected)),
        model.layers[layer].register_forward_hook(in_this_thread(keep_hidden)),
    ]
    for number, module in enumerate(model.layers):
        hooks.append(module.register_forward_pre_hook(instead(number), with_kwargs=True))
    try:
        run_through(
            model, model.layers[-1], input_ids=rows.tokens, position_ids=rows.positions, use_cache=False
        )
    finally:
        for handle in hooks:
            handle.remove()
    missing = prefix - rows.split
    width = begun.shape[1] + prefix
    before = {number: prefixes.give_up(number, missing) for number in extras}
    return Prefilled(
        layer=layer,
        hidden=seen["hidden"],
        projected=seen["projected"],
        masks=_masks(model, begun, rows, missing, rows.split),
        positions=rows.positions[:, rows.split :],
        before={number: (k[:, :, :width], v[:, :, :width]) for number, (k, v) in before.items()},
        extras=extras,
    )


def _masks(
    model: LanguageModel, begun: Tensor, rows: Aligned, padding: int, first: int, columns: int | None = None
) -> dict[int | None, Tensor]:
    """Masks of the rows' columns from `first` on, by window, over openings, padding and columns."""
    some = slice(0, columns)
    before = begun.long().cumsum(1) - 1
    unseen = begun.new_zeros(len(begun), padding)
    present = torch.cat((begun, unseen, rows.present[:, some]), dim=1)
    positions = torch.cat((before, unseen.long(), rows.positions[:, some]), dim=1)
    split = begun.shape[1] + padding + first
    return additive_masks(model.windows, present, positions, split, model.weight(0).dtype)
