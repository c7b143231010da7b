"""Targets: what the golden layer must add at the subject so that the model says the new fact.

The descent has two phases. The first sees the plain prompts alone and goes most of the way at a quarter of
the cost; the second practises behind generated contexts. Facts that have converged leave the batch. With
`warm_steps = 0` and the optimiser `adam` it is MEMIT's own algorithm, as `reference_target` in
`editing/targets/reference.py` writes it down; a property test holds them equal.

A target is a function of its group alone, to the last bit: facts of one shape share a batch, and the
arithmetic does not depend on the company (`models/batch_invariant.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.descent import Metric, Patience, Reached, descend, start
from corrigenda.editing.targets.groups import Group
from corrigenda.editing.targets.objective import Batch, FactRows
from corrigenda.editing.targets.scale import FREE
from corrigenda.editing.targets.target import Target
from corrigenda.errors import EditError
from corrigenda.facts import EditRequest
from corrigenda.models.batch_invariant import products_in, side_by_side
from corrigenda.models.encoding import encode
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.lower import lookup_keys
from corrigenda.models.prefix_cache import Openings, read_openings
from corrigenda.settings import TargetSettings

# The prompt whose next-token distribution must not move: the subject stays what it is (ROME, eq. 4).
ESSENCE = "{} is a"
# A fact counts as said when greedy decoding gives the target and its loss is at most this, nats a token:
# above it the answer hangs by a thread (docs/log).
LOSS_LIMIT = 1.2
# The needed share of a residual is bisected between this and one, so many times.
LEAST_SHARE, BISECTIONS = 0.3, 3
# Of the length that a fact's own first phase came to, so much is never cut off.
_OWN = 0.85


def rows_of(model: LanguageModel, group: Group, contexts: Sequence[str]) -> FactRows:
    """Token rows of a group, one per request and context.

    A lookup at position 0 stands on the attention sink, whose activations are enormous and alike for all
    texts: such rows are left out, and so are contexts that make a text longer than the model reads. Raises
    EditError when none remains.
    """
    tok = model.tokenizer
    lead = group.requests[0]
    behind = []
    for context in contexts:
        rows = tuple(encode(tok, r.prompt, r.subject, r.target, context) for r in group.requests)
        if model.plain:
            rows = tuple(replace(row, opening=0) for row in rows)
        length = max(len(row.tokens) for row in rows)
        if length > model.longest and not context:
            raise EditError(
                "prompt and target are longer than the model reads",
                remedy="Word the correction shorter",
                subject=lead.subject,
                tokens=length,
                longest=model.longest,
            )
        if rows[0].lookup > 0 and length <= model.longest:
            behind.append(rows)
    if not behind:
        raise EditError(
            "the subject's only token is the first of the text, where an edit would damage everything",
            remedy="Put a word before the subject, or let the editor use contexts (editing.contexts > 0)",
            subject=lead.subject,
            prompt=lead.prompt,
        )
    essence = encode(tok, ESSENCE, lead.subject)
    cut = replace(essence, tokens=essence.tokens[: essence.lookup + 1])
    return FactRows(tuple(behind), cut if cut.lookup > 0 else None)


def takes(model: LanguageModel, request: EditRequest, contexts: Sequence[str]) -> EditError | None:
    """Why the model cannot take a request; None when it can."""
    try:
        rows_of(model, Group((request,)), contexts)
    except EditError as fault:
        return fault
    return None


def optimise_targets(
    model: LanguageModel,
    band: Band,
    groups: Sequence[Group],
    contexts: Sequence[str],
    settings: TargetSettings,
    *,
    norm_cap: float,
    metric: Tensor | None = None,
    batch: int = 64,
    advance: Callable[[int], None] = lambda _done: None,
) -> list[Target]:
    """Targets of all groups, in their order; memory is bounded by `batch` groups.

    contexts   the plain prompt is practised behind the first `settings.contexts` + 1 of them; keys are
               read behind all
    norm_cap   |residuals over scales| at most this share of the hidden norm at the lookup, where no norm
               stands behind the projection; see `caps_of`
    metric     (width, d_out, d_out) of the descent: see `descent.Normalised`
    advance    called with the number of groups finished
    """
    facts = [rows_of(model, group, contexts) for group in groups]
    found: dict[int, Target] = {}
    begun = {row.tokens[: row.opening] for fact in facts for row in fact.rows}
    ((_, openings),) = side_by_side(lambda some: read_openings(model, some), [sorted(begun)], model.device)
    products, measure = products_in(settings.products, model.device), on_device(metric, model)

    def work(some: Sequence[int]) -> list[Target]:
        asked = [facts[i] for i in some]
        with products:
            each = _descents(model, band, asked, openings, settings, norm_cap, measure)
        return _with_keys(model, band, asked, openings, each)

    for some, done in side_by_side(work, batches(facts, batch), model.device):
        found.update(zip(some, done, strict=True))
        advance(len(some))
    return [found[i] for i in range(len(facts))]


def on_device(metric: Tensor | None, model: LanguageModel) -> Metric | None:
    """A metric, layer by layer, where the model's gradients are: it may come from a store."""
    return None if metric is None else metric.to(model.device).unbind(0)


def batches(facts: Sequence[FactRows], size: int) -> list[list[int]]:
    """Indices of facts of one shape, at most `size` together; the longest first."""
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, fact in enumerate(facts):
        by_shape[fact.shape].append(i)
    return [
        same[first : first + size]
        for _, same in sorted(by_shape.items(), reverse=True)
        for first in range(0, len(same), size)
    ]


def _descents(
    model: LanguageModel,
    band: Band,
    facts: Sequence[FactRows],
    openings: Openings | None,
    settings: TargetSettings,
    norm_cap: float,
    metric: Metric | None,
) -> tuple[Reached, Tensor]:
    """Where the descents of facts of one shape end, and the shares needed; no fact depends on the others."""
    some = [fact.first(settings.contexts + 1) for fact in facts]
    practised = Batch.of(model, band, some, openings, settings)
    plain = practised.plain_prompts()
    scale = practised.scale
    warm = _first_phase(plain, settings, first_cap(settings, norm_cap), metric)
    room = practised.room(caps_of(settings, norm_cap, warm.value.norm(dim=-1) / scale))
    calm = settings.warm_steps > 0
    state = start(settings, scale, warm.value, width=band.width, calm=calm, metric=metric).within(room)
    found = descend(practised, state, room, Patience.behind_contexts(settings))
    needed = needed_shares(plain, found.value)
    steps = warm.steps.to(found.steps) + found.steps
    return replace(found, value=practised.residuals(found.value), steps=steps), needed


def _first_phase(plain: Batch, settings: TargetSettings, norm_cap: float, metric: Metric | None) -> Reached:
    """Where the descents on plain prompts end; nowhere when the settings leave them out."""
    zero = plain.start()
    if not settings.warm_steps:
        return Reached(zero, *torch.zeros(2, len(zero)))
    state = start(settings, plain.scale, zero, width=plain.band.width, metric=metric)
    return descend(plain, state, plain.room(norm_cap), Patience.on_plain_prompts(settings))


def first_cap(settings: TargetSettings, norm_cap: float) -> float:
    """The norm cap of the first phase: none to speak of, where the second one's may depend on it."""
    return max(FREE, norm_cap) if settings.norm_cap == "auto" else norm_cap


def caps_of(settings: TargetSettings, norm_cap: float, natural: Tensor) -> Tensor:
    """The norm cap of the second phase, for each fact.

    natural   (facts,) lengths that the first phase came to, in shares of the scale

    A cap that the settings ask for holds for all. "auto" leaves a fact _OWN of its natural length where
    that is more: proxy facts may be unlike a user's own.
    """
    own = _OWN if settings.norm_cap == "auto" else 0.0
    return (own * natural).clamp(min=norm_cap)


def natural_lengths(
    model: LanguageModel,
    band: Band,
    groups: Sequence[Group],
    settings: TargetSettings,
    metric: Tensor | None = None,
    *,
    batch: int = 64,
) -> Tensor:
    """How long a residual each group's plain prompts ask for, as a share of `Batch.scale`, (groups,) float32.

    That of the first phase alone; without one, zero.
    """
    facts = [rows_of(model, group, ("",)) for group in groups]
    products, measure = products_in(settings.products, model.device), on_device(metric, model)

    def work(some: Sequence[int]) -> Tensor:
        with products:
            plain = Batch.of(model, band, [facts[i] for i in some], None, settings).plain_prompts()
            found = _first_phase(plain, settings, FREE, measure)
        lengths: Tensor = found.value.norm(dim=-1) / plain.scale
        return lengths.cpu()

    found = torch.zeros(len(facts))
    for some, lengths in side_by_side(work, batches(facts, batch), model.device):
        found[torch.tensor(some)] = lengths
    return found


def _with_keys(
    model: LanguageModel,
    band: Band,
    facts: Sequence[FactRows],
    openings: Openings | None,
    descents: tuple[Reached, Tensor],
) -> list[Target]:
    """The targets: what was reached, and the keys behind all contexts."""
    reached, needed = descents
    residuals = reached.value.reshape(len(facts), band.width, -1)
    rows = [(i, behind[0]) for i, fact in enumerate(facts) for behind in fact.behind]
    owner = torch.tensor([i for i, _ in rows], device=residuals.device)
    keys = lookup_keys(model, band.layers, [row for _, row in rows], openings, residuals[owner])
    each = torch.split(keys.float().cpu(), [len(fact.behind) for fact in facts])
    figures = (part.tolist() for part in (reached.loss, reached.steps, needed))
    parts = zip(each, residuals.cpu(), *figures, strict=True)
    return [
        Target(k.transpose(0, 1).contiguous(), value.clone(), loss, taken, need)
        for k, value, loss, taken, need in parts
    ]


def needed_shares(plain: Batch, value: Tensor) -> Tensor:
    """The share of each value (facts, width * d_out) that suffices for its plain prompts, 0.3 … 1.

    Found by bisection; infinite where not even the whole residual suffices. A joint solve gives a fact only
    a part of its residual: this tells, without asking the edited model, whether the part is enough.
    """
    possible = plain.said(value, LOSS_LIMIT)
    low = torch.full((len(value),), LEAST_SHARE, device=value.device)
    high = torch.ones_like(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = plain.said(value * middle[:, None], LOSS_LIMIT)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high.masked_fill(~possible, float("inf"))
