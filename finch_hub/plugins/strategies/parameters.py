"""Parameters of the built-in strategies; apart from the kernels, so that checking them loads no torch."""

from __future__ import annotations

from typing import Literal

import pydantic

from finch_hub.specs.value import Value


class LinearParameters(Value):
    """The weighted sum (arXiv 2212.04089).

    Attributes:
        norm: ``"sum"`` leaves the weighted sum as it is; ``"parents"`` gives every module's update the parents' mean
            norm, which is what Pico does after `calibrate`.

    """

    norm: Literal["sum", "parents"] = "sum"


class CatParameters(Value):
    """Stacking the factors takes none."""


class TiesParameters(Value):
    """TIES (arXiv 2306.01708).

    Attributes:
        density: share of each parent's core entries that is kept, the largest ones; 1 trims nothing.

    """

    density: float = pydantic.Field(default=0.5, gt=0, le=1)


class DareParameters(Value):
    """DARE (arXiv 2311.03099).

    Attributes:
        drop: probability of dropping an entry; what stays is divided by ``1 - drop``. 0 drops nothing.
        elect: elect signs as TIES does after dropping, instead of summing.
        density: of the trimming that goes before the election; 1 trims nothing.

    """

    drop: float = pydantic.Field(default=0.5, ge=0, lt=1)
    elect: bool = False
    density: float = pydantic.Field(default=1.0, gt=0, le=1)


class TsvParameters(Value):
    """TSV-M (arXiv 2412.00081).

    Attributes:
        sides: which singular vectors are made orthogonal between parents: of the outputs (left), of the inputs
            (right), both, or none, which is the plain sum of what `keep` keeps. Left is the safe one for parents that
            began from different A.
        keep: singular triplets of each parent that are used; None uses all.

    """

    sides: Literal["both", "left", "right", "none"] = "both"
    keep: pydantic.PositiveInt | None = None


class RegmeanParameters(Value):
    """Regression on the parents' inputs (RegMean, arXiv 2212.09849).

    Attributes:
        prior: what decides in directions that the rows leave open: the parents' weighted mean, or what `tsv` with both
            sides makes of them.
        ridge: the prior's share, as one of the moments' mean eigenvalue; infinite would be the prior itself.
        rows: of each parent's validation examples, from which its inputs are taken.

    """

    prior: Literal["mean", "tsv"] = "tsv"
    ridge: float = pydantic.Field(default=1.0, gt=0)
    rows: pydantic.PositiveInt = 8


class LearnedParameters(Value):
    """Weights fitted on the parents' validation examples (LoRA Soups, arXiv 2410.13025; LoraHub, 2307.13269).

    Attributes:
        steps: of gradient descent.
        learning_rate: of the weights.
        per_module: one weight for each parent and module instead of one for each parent.
        orthogonalize: sides on which the parents' singular vectors are made orthogonal before, as `tsv` does; with
            none, the weights are of the plain sum.

    """

    steps: pydantic.PositiveInt = 20
    learning_rate: float = pydantic.Field(default=0.05, gt=0)
    per_module: bool = False
    orthogonalize: Literal["both", "left", "right", "none"] = "none"
