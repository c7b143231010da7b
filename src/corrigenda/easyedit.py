"""Corrigenda as a method of EasyEdit (Wang et al. 2024): one solve over all requests, on a live model.

`apply_corrigenda_to_model` has the signature that EasyEdit's method table asks for, and `metrics` gives
figures under EasyEdit's names, so that others can put us into their tables. Nothing is cached or published
here; a fleet goes through the flows. Like its methods of that name, it changes the model that it is given.
"""

from __future__ import annotations

import copy as copying
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corrigenda.editing.background import contexts, corpus, covariance, fisher
from corrigenda.editing.solve.joint import solve_balanced
from corrigenda.editing.solve.scales import laid
from corrigenda.editing.solve.weight import OtherText
from corrigenda.editing.targets import engine
from corrigenda.editing.targets.band import layers_around
from corrigenda.editing.targets.norm_cap import proxy_norm_cap, proxy_rows
from corrigenda.errors import CorrectionsError
from corrigenda.facts import EditRequest
from corrigenda.models.agreement import proved
from corrigenda.models.encoding import continuation_tokens, prompt_tokens
from corrigenda.models.language_model import LanguageModel
from corrigenda.models.structure import family_of
from corrigenda.settings import Corpus, Editing, NormalisedDescent
from corrigenda.storage.corrections.proxy_facts import read_proxy_facts
from corrigenda.storage.corrections.slots import SlotError, slotted

Request = Mapping[str, Any]


@dataclass
class CorrigendaHyperParams:
    """What EasyEdit calls hyperparameters; names that it sets for all methods are taken and not looked at.

    layers              the golden layer; of several, the middle one, with `editing["band"]` layers around it
    editing             settings as in `[defaults.editing]` of a fleet.toml
    background_tokens   of text sampled from the model, for the covariance
    """

    layers: list[int]
    editing: dict[str, Any] = field(default_factory=dict)
    background_tokens: int = 40_000
    alg_name: str = "corrigenda"
    model_name: str = ""
    device: Any = 0
    batch_size: int = 10_000
    max_length: int = 40
    model_parallel: bool = False
    fp16: bool = False

    @classmethod
    def from_hparams(cls, path: str) -> CorrigendaHyperParams:
        """From a YAML file, as EasyEdit reads its own; what it does not know is left out."""
        import yaml

        name = path if path.endswith((".yaml", ".yml")) else f"{path}.yaml"
        told = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        return cls(**{one.name: told[one.name] for one in fields(cls) if one.name in told})


def apply_corrigenda_to_model(
    model: Any,
    tok: Any,
    requests: Sequence[Request],
    hparams: Any,
    copy: bool = False,
    return_orig_weights: bool = False,
    cache_template: str | None = None,
    keep_original_weight: bool = False,
    **kwargs: Any,
) -> tuple[Any, dict[str, Tensor]]:
    """Edit `model` with all requests at once; the edited model, and the weights that it had.

    requests   each with `prompt`, `subject` and `target_new`; the prompt has `{}` or the subject itself
    copy       edit a copy and leave the model as it is

    Raises CorrectionsError for a request whose subject is not in its prompt.
    """
    edited = copying.deepcopy(model) if copy else model
    known = proved(LanguageModel(edited.eval(), tok, family_of(edited), edited.device))
    updates = _updates(known, list(map(_request, requests)), hparams)
    before: dict[str, Tensor] = {}
    with torch.no_grad():
        for layer, update in updates.items():
            weight = known.weight(layer)
            if return_orig_weights or keep_original_weight:
                before[known.weight_name(layer)] = weight.detach().clone()
            step = update.T if known.family.stored_transposed else update
            weight.copy_(weight.double() + step.to(weight.device))
    return edited, before


def _request(told: Request) -> EditRequest:
    subject = str(told["subject"])
    target = told["target_new"]
    text = target["str"] if isinstance(target, Mapping) else str(target)
    try:
        return EditRequest(subject, slotted(str(told["prompt"]), subject), text.strip())
    except SlotError:
        raise CorrectionsError(
            "the subject is not in its prompt as a word of its own",
            remedy="Spell the subject alike in both, or put `{}` in its place",
            subject=subject,
            prompt=told["prompt"],
        ) from None


def _updates(model: LanguageModel, requests: Sequence[EditRequest], hparams: Any) -> dict[int, Tensor]:
    """What a night's solve adds to each layer of the band."""
    settings = Editing(**getattr(hparams, "editing", {}))
    golden = hparams.layers[len(hparams.layers) // 2]
    layers = layers_around(golden, settings.band, model.n_layers)
    text = Corpus(tokens=getattr(hparams, "background_tokens", 40_000))
    shorter = text.model_copy(update={"length": min(text.length, model.longest)})
    rows = corpus.background_tokens(model, shorter)
    moments = covariance.key_covariance(model, layers, rows)
    asked = settings.targets
    count = (asked.measured or NormalisedDescent()).metric_tokens
    fishers = fisher.output_fisher(
        model, layers, rows[: max(1, count // rows.shape[1])], products=asked.products
    )
    pool = read_proxy_facts()
    band = laid(model, layers, moments, fishers, proxy_rows(model, pool, asked))
    metric = torch.stack([fisher.metric_of(fishers[n]) for n in layers]) if asked.measured else None
    openings = contexts.generate_contexts(
        model, max(asked.contexts, asked.key_contexts), asked.context_tokens, asked.seed
    )
    cap = proxy_norm_cap(model, band, pool, asked, metric)
    found = engine.find_targets(
        model, band, requests, openings, asked, norm_cap=cap, cached={}, metric=metric
    )
    scaled = zip(layers, band.scales, strict=True)
    others = [OtherText.of(model.linear_map(layer), moments[layer], scale) for layer, scale in scaled]
    done = solve_balanced(found.known, others, settings)
    return dict(zip(layers, done.updates, strict=True))


def metrics(model: Any, tok: Any, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """What EasyEdit measures of a model for each request, under its names.

    An accuracy is the share of the answer's tokens that are the likeliest where they stand, given those
    before (teacher forcing, as in EasyEdit). Of `locality` and `portability` prompts each group has a list; a
    locality group holds the likeliest tokens themselves: `compared` sets two models' side by side.
    """
    found = []
    for told in requests:
        prompt = _request(told)
        one: dict[str, Any] = {"rewrite_acc": [_accuracy(model, tok, prompt.text, prompt.target)]}
        rephrased = told.get("rephrase_prompt")
        if rephrased:
            texts = [rephrased] if isinstance(rephrased, str) else rephrased
            one["rephrase_acc"] = [_accuracy(model, tok, text, prompt.target) for text in texts]
        one["locality"] = {
            f"{name}_output": [_likeliest(model, tok, text, answer)[0] for text, answer in pairs]
            for name, pairs in _groups(told.get("locality"))
        }
        one["portability"] = {
            f"{name}_acc": [_accuracy(model, tok, text, answer) for text, answer in pairs]
            for name, pairs in _groups(told.get("portability"))
        }
        found.append(one)
    return found


def compared(
    requests: Sequence[Request], pre: Sequence[dict[str, Any]], post: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """EasyEdit's results: one dictionary a request with `pre` and `post`; `locality` as `…_acc`, the share of
    tokens that both models hold likeliest."""
    results = []
    for number, (told, before, after) in enumerate(zip(requests, pre, post, strict=True)):
        kept = {
            name.replace("_output", "_acc"): [
                _share(now, was) for now, was in zip(outputs, before["locality"][name], strict=True)
            ]
            for name, outputs in after["locality"].items()
        }
        told_before = {name: value for name, value in before.items() if name != "locality"}
        results.append(
            {
                "case_id": told.get("case_id", number),
                "requested_rewrite": dict(told),
                "pre": told_before,
                "post": {**after, "locality": kept},
            }
        )
    return results


def _groups(told: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    """EasyEdit's {group: {"prompt": …, "ground_truth": …}}, each a text or a list."""
    found = []
    for name, group in (told or {}).items():
        pair = [group[key] for key in ("prompt", "ground_truth")]
        prompts, answers = ([one] if isinstance(one, str) else list(one) for one in pair)
        found.append((str(name), list(zip(prompts, map(str, answers), strict=True))))
    return found


def _accuracy(model: Any, tok: Any, prompt: str, answer: str) -> float:
    said, wanted = _likeliest(model, tok, prompt, answer)
    return _share(said, wanted)


def _share(some: Sequence[int], others: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(some, others, strict=True)) / len(others)


@torch.no_grad()
def _likeliest(model: Any, tok: Any, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """The likeliest token at each place of the answer, and the answer's own."""
    (before,), (behind,) = prompt_tokens(tok, [prompt]), continuation_tokens(tok, [prompt], [answer])
    whole = torch.tensor([[*before, *behind]], device=model.device)
    logits = model(input_ids=whole).logits[0, len(before) - 1 : -1]
    return logits.argmax(-1).tolist(), list(behind)
