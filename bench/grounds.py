"""What benchmarks of the editor measure once per model: the band around a layer, and what other text asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.data import data_file
from corrigenda.editing.background import contexts, corpus, covariance, fisher
from corrigenda.editing.solve.scales import laid
from corrigenda.editing.solve.weight import OtherText
from corrigenda.editing.targets import engine
from corrigenda.editing.targets.band import Band, layers_around
from corrigenda.editing.targets.engine import Targets
from corrigenda.editing.targets.norm_cap import proxy_norm_cap, proxy_rows
from corrigenda.facts import EditRequest, digest_of
from corrigenda.models.language_model import LanguageModel
from corrigenda.settings import Corpus, Editing, NormalisedDescent, TargetSettings
from corrigenda.storage.corrections.proxy_facts import read_proxy_facts


@dataclass(frozen=True, slots=True)
class Ground:
    """A night's way to targets and solves, with what it finds in the cache.

    others     what other text asks, by layer of the band
    metric     (width, d_out, d_out) of the descent
    openings   contexts, the empty one first
    """

    model: LanguageModel
    settings: Editing
    band: Band
    others: tuple[OtherText, ...]
    metric: Tensor | None
    norm_cap: float
    openings: tuple[str, ...]

    @classmethod
    def of(
        cls, model: LanguageModel, golden: int, settings: Editing, *, tokens: int, source: str, kept: Path
    ) -> Ground:
        """From so many tokens of a source: `wikitext`, or `self`; moments are kept, for they are dear."""
        layers = layers_around(golden, settings.band, model.n_layers)
        moments, fishers = _moments(model, layers, settings, tokens, source, kept)
        pool = read_proxy_facts()
        metric = None
        if settings.targets.measured:
            metric = torch.stack([fisher.metric_of(fishers[layer]) for layer in layers])
        band = laid(model, layers, moments, fishers, proxy_rows(model, pool, settings.targets))
        cap = proxy_norm_cap(model, band, pool, settings.targets, metric)
        scaled = zip(layers, band.scales, strict=True)
        others = [OtherText.of(model.linear_map(layer), moments[layer], scale) for layer, scale in scaled]
        return cls(model, settings, band, tuple(others), metric, cap, openings_of(model, settings.targets))

    def targets(self, requests: Sequence[EditRequest]) -> Targets:
        return engine.find_targets(
            self.model,
            self.band,
            requests,
            self.openings,
            self.settings.targets,
            norm_cap=self.norm_cap,
            cached={},
            metric=self.metric,
        )


def text(model: LanguageModel, name: str, tokens: int, length: int) -> Tensor:
    """Token rows of a development text."""
    return corpus.background_tokens(model, Corpus(source=str(data_file(name)), tokens=tokens, length=length))


def openings_of(model: LanguageModel, settings: TargetSettings) -> tuple[str, ...]:
    count = max(settings.contexts, settings.key_contexts)
    return contexts.generate_contexts(model, count, settings.context_tokens, settings.seed)


def _moments(
    model: LanguageModel, layers: Sequence[int], settings: Editing, tokens: int, source: str, kept: Path
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Covariance and Fisher information of the layers; what an earlier run has measured of them is read."""
    count = (settings.targets.measured or NormalisedDescent()).metric_tokens
    named = [model.network.name_or_path, tokens, count, source]
    paths = {layer: kept / f"moments-{digest_of([*named, layer])[:12]}.pt" for layer in layers}
    missing = [layer for layer, path in paths.items() if not path.exists()]
    if missing:
        if source == "self":
            rows = corpus.background_tokens(model, Corpus(tokens=tokens))
        else:
            rows = text(model, "wikitext_train_head.parquet", tokens, 128)
        some = rows[: count // rows.shape[1]]
        covariances = covariance.key_covariance(model, missing, rows)
        fishers = fisher.output_fisher(model, missing, some, products=settings.targets.products)
        kept.mkdir(parents=True, exist_ok=True)
        for layer in missing:
            torch.save((covariances[layer], fishers[layer]), paths[layer])
    found = {layer: torch.load(path) for layer, path in paths.items()}
    return {layer: pair[0] for layer, pair in found.items()}, {
        layer: pair[1] for layer, pair in found.items()
    }
