"""Parameters of the built-in strategies, without torch so that they are checked fast."""

from __future__ import annotations

from typing import Literal

import pydantic

from finch_hub.specs.value import PositiveInt, Value


class LinearParameters(Value):
    """Parameters of the weighted sum (task arithmetic, arXiv 2212.04089).

    Attributes:
        norm: ``"sum"`` keeps the norm of the weighted sum. ``"parents"`` scales each module's update to the mean norm
            of the parents' own updates, before any resolver, as Pico does after `calibrate`.
    """

    norm: Literal["sum", "parents"] = "sum"


class TiesParameters(Value):
    """Parameters of TIES (arXiv 2306.01708).

    Attributes:
        density: share of each parent's core entries to keep, the largest ones; 1 trims nothing.
    """

    density: float = pydantic.Field(default=0.5, gt=0, le=1)


class DareParameters(Value):
    """Parameters of DARE (arXiv 2311.03099).

    Attributes:
        drop: probability of dropping an entry. The other entries are divided by ``1 - drop``.
        elect: elect signs as `ties` does, instead of adding the entries.
        density: density of the trimming before the election; 1 trims nothing.
    """

    drop: float = pydantic.Field(default=0.5, ge=0, lt=1)
    elect: bool = False
    density: float = pydantic.Field(default=1.0, gt=0, le=1)


class TsvParameters(Value):
    """Parameters of TSV-M (arXiv 2412.00081).

    Attributes:
        sides: singular vectors that are made orthogonal between parents: of the outputs (left), of the inputs (right),
            of both, or of none. Left is the safe choice for parents with different initial A.
        keep: number of singular triplets of each parent to use; None uses all.
    """

    sides: Literal["both", "left", "right", "none"] = "both"
    keep: PositiveInt | None = None


class RegmeanParameters(Value):
    """Parameters of the regression on the parents' inputs (RegMean, arXiv 2212.09849).

    Attributes:
        prior: update in directions without inputs: the parents' weighted mean, or their `tsv` merge on both sides.
        ridge: weight of the prior, as a multiple of the mean eigenvalue of the moments.
        rows: number of validation examples of each parent that supply inputs.
    """

    prior: Literal["mean", "tsv"] = "tsv"
    ridge: float = pydantic.Field(default=1.0, gt=0)
    rows: PositiveInt = 8


class LearnedParameters(Value):
    """Parameters of the fit of the weights (LoRA Soups, arXiv 2410.13025; LoraHub, arXiv 2307.13269).

    Attributes:
        steps: number of steps of gradient descent.
        learning_rate: learning rate of the weights.
        per_module: fit one weight for each parent and module, instead of one for each parent.
        orthogonalize: sides on which the parents' singular vectors are made orthogonal first, as `tsv` does.
    """

    steps: PositiveInt = 20
    learning_rate: float = pydantic.Field(default=0.05, gt=0)
    per_module: bool = False
    orthogonalize: Literal["both", "left", "right", "none"] = "none"
