"""The plain forms of what the engine does fast: they are the truth that tests compare with.

`reference_target` is MEMIT's released algorithm (kmeng01/memit, `compute_z`): one fact at a time, full
forward passes of every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from corrigenda.editing.targets.band import Band
from corrigenda.editing.targets.descent import Adam, Normalised, Patience, start
from corrigenda.editing.targets.groups import Group
from corrigenda.editing.targets.objective import FactRows
from corrigenda.editing.targets.optimise import caps_of, first_cap, rows_of
from corrigenda.editing.targets.scale import Room, room_of, scale_of
from corrigenda.editing.targets.target import Target
from corrigenda.models.encoding import TokenRow
from corrigenda.models.language_model import LanguageModel
from corrigenda.settings import TargetSettings


def reference_target(
    model: LanguageModel,
    band: Band,
    group: Group,
    contexts: Sequence[str],
    settings: TargetSettings,
    *,
    norm_cap: float,
    metric: Tensor | None = None,
) -> Target:
    """The target of one group, by full forward passes of all its rows with hooks at the projections."""
    fact = rows_of(model, group, contexts)
    with torch.no_grad():
        base = _run(model, band, fact.rows, None)
    at = fact.rows[0].lookup
    output = base.projected[0, at][None]
    scale = scale_of(model, band.lowest, output, base.hidden[0, at][None])
    measure = None if metric is None else metric.unbind(0)
    stretch = band.stretch(output.shape[-1])
    value, steps = torch.zeros(1, len(stretch)), 0
    if settings.warm_steps:
        plain = _Plain.of(model, band, replace(fact.first(1), essence=None), settings, scale)
        state = start(settings, scale, value, width=band.width, metric=measure)
        room = room_of(model, output, scale, first_cap(settings, norm_cap))
        value, _, steps = _descend(plain, state, room, Patience.on_plain_prompts(settings))
    room = room_of(model, output, scale, caps_of(settings, norm_cap, value.norm(dim=-1) / scale))
    practised = _Plain.of(model, band, fact.first(settings.contexts + 1), settings, scale)
    calm = settings.warm_steps > 0
    state = start(settings, scale, value, width=band.width, calm=calm, metric=measure).within(room)
    value, loss, more = _descend(practised, state, room, Patience.behind_contexts(settings))
    residual = (value[0] * stretch).reshape(band.width, -1)
    with torch.no_grad():
        keys = _run(model, band, fact.rows, residual).keys
    firsts = [i * len(group.requests) for i in range(len(fact.behind))]
    stacked = torch.stack([keys[:, i, fact.rows[i].lookup] for i in firsts], dim=1)
    return Target(stacked, residual, loss, steps + more)


@dataclass(frozen=True, slots=True)
class _Plain:
    """One group's objective: every row from its first token through all layers, each time."""

    model: LanguageModel
    band: Band
    fact: FactRows
    settings: TargetSettings
    scale: Tensor
    base: Tensor  # logits (rows, length, vocabulary) without any edit

    @classmethod
    def of(
        cls, model: LanguageModel, band: Band, fact: FactRows, settings: TargetSettings, scale: Tensor
    ) -> _Plain:
        with torch.no_grad():
            return cls(model, band, fact, settings, scale, _run(model, band, _all(fact), None).logits)

    def losses(self, value: Tensor) -> tuple[Tensor, Tensor]:
        d_out = value.shape[-1] // self.band.width
        residual = (value[0] * self.band.stretch(d_out)).reshape(self.band.width, d_out)
        logits = _run(self.model, self.band, _all(self.fact), residual).logits
        prompts, essence = self.fact.rows, self.fact.essence
        return _objective(prompts, essence, logits, self.base, value[0], float(self.scale), self.settings)


def _all(fact: FactRows) -> list[TokenRow]:
    return [*fact.rows, *([fact.essence] if fact.essence else [])]


def _descend(
    objective: _Plain, state: Adam | Normalised, room: Room, patience: Patience
) -> tuple[Tensor, float, int]:
    """Value (1, d_out), loss of the target and steps, where the descent of one group ends."""
    for step in range(patience.longest):
        value = state.value.detach().requires_grad_(True)
        nll, loss = objective.losses(value)
        if float(nll.detach()) < patience.enough(step) or step == patience.longest - 1:
            break
        (gradient,) = torch.autograd.grad(loss, value)
        state = state.step(gradient, step + 1).within(room)
    return value.detach(), float(nll.detach()), step


def _objective(
    prompts: Sequence[TokenRow],
    essence: TokenRow | None,
    logits: Tensor,
    base: Tensor,
    residual: Tensor,
    scale: float,
    settings: TargetSettings,
) -> tuple[Tensor, Tensor]:
    logp = log_softmax(logits, -1)
    nll = torch.zeros(())
    for i, row in enumerate(prompts):
        at = [row.first_prediction + j for j in range(len(row.targets))]
        nll = nll - logp[i, at, list(row.targets)].mean() / len(prompts)
    loss = nll
    if essence is not None:
        i, at_ = len(prompts), essence.lookup
        was = log_softmax(base[i, at_], -1)
        loss = loss + settings.kl_weight * kl_div(was, logp[i, at_], reduction="sum", log_target=True)
    size: Tensor = residual.norm() / scale**2
    return nll, loss + settings.norm_weight * size


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a full forward shows: keys (width, rows, length, d_in), all else at the lowest layer."""

    logits: Tensor
    keys: Tensor
    projected: Tensor
    hidden: Tensor


def _run(model: LanguageModel, band: Band, rows: Sequence[TokenRow], residual: Tensor | None) -> _Seen:
    """Right-padded full forward of rows; their lookups gain `residual` (width, d_out)."""
    width = max(len(row.tokens) for row in rows)
    tokens = torch.tensor([[*row.tokens, *[0] * (width - len(row.tokens))] for row in rows])
    mask = torch.tensor([[1] * len(row.tokens) + [0] * (width - len(row.tokens)) for row in rows])
    lookups = torch.tensor([row.lookup for row in rows])
    keys: dict[int, Tensor] = {}
    projected: dict[int, Tensor] = {}
    hidden: list[Tensor] = []

    def editing(place: int) -> Any:
        def edit(_module: Any, inputs: Any, out: Tensor) -> Tensor:
            keys[place], projected[place] = inputs[0], out
            if residual is None:
                return out
            spot = torch.zeros(out.shape[:2])
            spot[torch.arange(len(rows)), lookups] = 1.0
            return out + spot[..., None] * residual[place]

        return edit

    def leave(_module: Any, _inputs: Any, out: Any) -> None:
        hidden.append(out[0] if isinstance(out, tuple) else out)

    hooks = [
        *(model.projection(layer).register_forward_hook(editing(i)) for i, layer in enumerate(band.layers)),
        model.layers[band.lowest].register_forward_hook(leave),
    ]
    try:
        logits = model.network(input_ids=tokens, attention_mask=mask).logits.float()
    finally:
        for hook in hooks:
            hook.remove()
    stacked = torch.stack([keys[i] for i in range(band.width)])
    return _Seen(logits, stacked, projected[0], hidden[0])
