"""The plain forms of what the engine does fast: they are the truth that tests compare with.

`reference_target` is MEMIT's released algorithm (kmeng01/memit, `compute_z`): one fact at a time, full
forward passes of every row, torch's own Adam.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from corrigenda.config import Editing
from corrigenda.editing.targets import Target, rows_of
from corrigenda.facts import EditRequest
from corrigenda.models.loading import LanguageModel
from corrigenda.models.prompts import Row


def reference_target(
    model: LanguageModel,
    layer: int,
    request: EditRequest,
    contexts: Sequence[str],
    settings: Editing,
    *,
    norm_cap: float,
) -> Target:
    """The target of one fact, by full forward passes with a hook at the projection."""
    fact = rows_of(model, request, contexts)
    rows = [*fact.prompts, *([fact.essence] if fact.essence else [])]
    width = int(_run(model, layer, rows[:1], None)[2].shape[-1])
    residual = torch.zeros(width, requires_grad=True)
    optimiser = torch.optim.Adam([residual], lr=settings.learning_rate)
    with torch.no_grad():
        base, keys, _, hidden = _run(model, layer, rows, None)
    scale = float(hidden[0, fact.prompts[0].lookup].norm())
    for step in range(settings.steps):
        optimiser.zero_grad()
        logits = _run(model, layer, rows, residual)[0]
        nll, loss = _objective(fact.prompts, fact.essence, logits, base, residual, scale, settings)
        reached = float(nll.detach())
        if reached < settings.stop_loss or step == settings.steps - 1:
            break
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            if residual.norm() > norm_cap * scale:
                residual.mul_(norm_cap * scale / residual.norm())
    stacked = torch.stack([keys[i, row.lookup] for i, row in enumerate(fact.prompts)])
    return Target(stacked, residual.detach().clone(), reached, step)


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
