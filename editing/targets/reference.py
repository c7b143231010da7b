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

from corrigenda.config import Editing
from corrigenda.editing.targets.descent import Adam, Normalised, Patience, start
from corrigenda.editing.targets.groups import Group
from corrigenda.editing.targets.objective import FactRows
from corrigenda.editing.targets.optimise import caps_of, first_cap, rows_of
from corrigenda.editing.targets.scale import Room, room_of, scale_of
from corrigenda.editing.targets.target import Target
from corrigenda.models.encoding import Row
from corrigenda.models.language_model import LanguageModel


def reference_target(
    model: LanguageModel,
    layer: int,
    group: Group,
    contexts: Sequence[str],
    settings: Editing,
    *,
    norm_cap: float,
    metric: Tensor | None = None,
) -> Target:
    """The target of one group, by full forward passes of all its rows with a hook at the projection."""
    fact = rows_of(model, group, contexts)
    with torch.no_grad():
        _, keys, projected, hidden = _run(model, layer, fact.rows, None)
    at = fact.rows[0].lookup
    output = projected[0, at][None]
    scale = scale_of(model, layer, output, hidden[0, at][None])
    residual, steps = torch.zeros(1, projected.shape[-1]), 0
    if settings.warm_steps:
        plain = _Plain.of(model, layer, replace(fact.first(1), essence=None), settings, scale)
        state = start(settings, scale, residual, metric=metric)
        room = room_of(model, output, scale, first_cap(settings, norm_cap))
        residual, _, steps = _descend(plain, state, room, Patience.on_plain_prompts(settings))
    room = room_of(model, output, scale, caps_of(settings, norm_cap, residual.norm(dim=-1) / scale))
    practised = _Plain.of(model, layer, fact.first(settings.contexts + 1), settings, scale)
    state = start(settings, scale, residual, calm=settings.warm_steps > 0, metric=metric).within(room)
    residual, loss, more = _descend(practised, state, room, Patience.behind_contexts(settings))
    firsts = [i * len(group.requests) for i in range(len(fact.behind))]
    stacked = torch.stack([keys[i, fact.rows[i].lookup] for i in firsts])
    return Target(stacked, residual[0], loss, steps + more)


@dataclass(frozen=True, slots=True)
class _Plain:
    """One group's objective: every row from its first token through all layers, each time."""

    model: LanguageModel
    layer: int
    fact: FactRows
    settings: Editing
    scale: Tensor
    base: Tensor  # logits (rows, length, vocabulary) without any edit

    @classmethod
    def of(cls, model: LanguageModel, layer: int, fact: FactRows, settings: Editing, scale: Tensor) -> _Plain:
        with torch.no_grad():
            return cls(model, layer, fact, settings, scale, _run(model, layer, _all(fact), None)[0])

    def losses(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        logits = _run(self.model, self.layer, _all(self.fact), residual[0])[0]
        prompts, essence = self.fact.rows, self.fact.essence
        return _objective(prompts, essence, logits, self.base, residual[0], float(self.scale), self.settings)


def _all(fact: FactRows) -> list[Row]:
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
    prompts: Sequence[Row],
    essence: Row | None,
    logits: Tensor,
    base: Tensor,
    residual: Tensor,
    scale: float,
    settings: Editing,
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


def _run(
    model: LanguageModel, layer: int, rows: Sequence[Row], residual: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Right-padded full forward: logits, keys, projected, hidden that leaves the layer."""
    width = max(len(row.tokens) for row in rows)
    tokens = torch.tensor([[*row.tokens, *[0] * (width - len(row.tokens))] for row in rows])
    mask = torch.tensor([[1] * len(row.tokens) + [0] * (width - len(row.tokens)) for row in rows])
    lookups = torch.tensor([row.lookup for row in rows])
    kept: dict[str, Tensor] = {}

    def edit(_module: Any, inputs: Any, out: Tensor) -> Tensor:
        kept["keys"], kept["projected"] = inputs[0], out
        if residual is None:
            return out
        spot = torch.zeros(out.shape[:2])
        spot[torch.arange(len(rows)), lookups] = 1.0
        return out + spot[..., None] * residual

    def leave(_module: Any, _inputs: Any, out: Any) -> None:
        kept["hidden"] = out[0] if isinstance(out, tuple) else out

    hooks = [
        model.projection(layer).register_forward_hook(edit),
        model.layers[layer].register_forward_hook(leave),
    ]
    try:
        logits = model.network(input_ids=tokens, attention_mask=mask).logits.float()
    finally:
        for hook in hooks:
            hook.remove()
    return logits, kept["keys"], kept["projected"], kept["hidden"]
