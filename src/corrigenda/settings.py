"""Settings that can change a published weight: the search for the layer, the edit, background text.

Each part is handed to what it belongs to, and all its fields are in the cache keys there: nothing of a solve
is in a target's key. All are frozen and checked. `docs/reference/settings.md` is written from here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Products = Literal["auto", "float32", "bfloat16"]
Localizer = Literal[
    "lga", "lga-unfenced", "edit-shaped", "two-stage", "causal-tracing", "salem", "middle", "random"
]


class Localization(Frozen):
    """How the golden layer is found."""

    method: Localizer = Field(default="lga", description="the localizer; `two-stage` edits on trial")
    proxy_facts: str | None = Field(
        default=None, description="a Parquet, CSV or JSON Lines file of proxy facts; else the built-in pool"
    )
    sample: int = Field(default=30, ge=4, description="proxy facts that are asked")
    seed: int = Field(default=0, description="which proxy facts are drawn")
    layer: int | None = Field(default=None, ge=0, description="a layer fixed by hand: no localization at all")
    loss: Literal["full", "answer"] = Field(
        default="full", description="LGA: the tokens whose cross-entropy counts, of the text or its answer"
    )
    old: Literal["dataset", "model_pred"] = Field(
        default="dataset", description="LGA: the old answer is the proxy fact's, or what the model says"
    )
    matrices: Literal["all", "projection"] = Field(
        default="all", description="LGA: the matrices of a layer's MLP whose gradients count"
    )
    trials: int = Field(
        default=5, ge=2, description="two-stage: so many of LGA's best layers are edited on trial"
    )


class SolveSettings(Frozen):
    """The closed-form solve over all active corrections."""

    solver: Literal["memit", "emmet", "alphaedit"] = Field(
        default="memit",
        description="least squares (MEMIT), equality constraints (EMMET) or null space (AlphaEdit)",
    )
    covariance_weight: float | Literal["auto"] = Field(
        default="auto", description="background keys that a fact is weighed against: MEMIT's lambda"
    )
    most_change: float = Field(
        default=0.22,
        gt=0,
        description="how much an edit may change for other text: as a share of what the layers add (squares)",
    )
    balance_rounds: int = Field(
        default=4, ge=0, description="solves that press harder the facts that fall short"
    )


class NormalisedDescent(Frozen):
    """Steps of a given length along the gradient, measured where other text is sensitive."""

    kind: Literal["normalised"] = "normalised"
    metric: Literal["fisher", "plain"] = Field(
        default="fisher", description="what a short residual is: little harm to other text, or a small norm"
    )
    metric_tokens: int = Field(default=8_192, ge=256, description="background tokens that measure the metric")
    first_step: float = Field(default=0.12, gt=0, description="the first step: a share of the hidden norm")


class AdamDescent(Frozen):
    """MEMIT's own optimiser: for studies."""

    kind: Literal["adam"] = "adam"
    learning_rate: float = Field(default=0.5, gt=0, description="of each coordinate, a step")


class TargetSettings(Frozen):
    """How keys and residual of a fact are found: all of it is in the key of the cache of targets."""

    norm_cap: float | Literal["auto"] = Field(
        default="auto", description="a residual is at most this share of the hidden norm: MEMIT's clamp"
    )
    contexts: int = Field(default=2, ge=0, description="generated openings that a fact is practised behind")
    key_contexts: int = Field(default=12, ge=0, description="generated openings behind which keys are read")
    context_tokens: int = Field(default=10, ge=1, description="mean tokens of an opening")
    warm_steps: int = Field(
        default=10, ge=0, description="steps on the plain prompt alone, before the openings join"
    )
    warm_loss: float = Field(default=0.25, gt=0, description="nats of the target at which these end")
    steps: int = Field(default=6, ge=1, description="steps behind openings")
    late_steps: int = Field(default=4, ge=0, description="more, for facts that are not below late_loss then")
    late_loss: float = Field(default=0.5, gt=0, description="nats of the target")
    stop_loss: float = Field(default=0.1, gt=0, description="nats; a fact below it leaves the batch")
    kl_weight: float = Field(
        default=0.0625, ge=0, description='of what follows "{subject} is a": MEMIT\'s kl_factor'
    )
    norm_weight: float = Field(
        default=0.5, ge=0, description="of the residual's relative size: MEMIT's v_weight_decay"
    )
    products: Products = Field(default="auto", description="arithmetic; auto: what the processor is fast at")
    seed: int = Field(default=0, description="which openings are generated")
    descent: Annotated[NormalisedDescent | AdamDescent, Field(discriminator="kind")] = Field(
        default=NormalisedDescent(), description="the optimiser, with the settings that it alone has"
    )

    @property
    def measured(self) -> NormalisedDescent | None:
        """The descent, where it is one that measures what residuals do to other text."""
        here = self.descent
        return here if here.kind == "normalised" and here.metric == "fisher" else None


class Editing(SolveSettings):
    """One night's edit: the band, the solve, and how targets are found."""

    band: int = Field(
        default=10, ge=1, description="layers that carry an edit together; 1 is the golden layer alone"
    )
    targets: TargetSettings = Field(default=TargetSettings(), description="how keys and residuals are found")


class Corpus(Frozen):
    """Background text."""

    source: str = Field(
        default="self",
        description="`self` (sampled from the base), a Parquet or text file, or a hub data set",
    )
    column: str = Field(default="text", description="of a Parquet file or data set")
    tokens: int = Field(default=16_384, ge=1_000, description="how much text")
    length: int = Field(default=128, ge=16, description="tokens of a row")
    seed: int = Field(default=0, description="which text is sampled")
