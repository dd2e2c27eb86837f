"""Configuration of a LoRA adapter (arXiv 2106.09685)."""

from __future__ import annotations

import re
import warnings
from typing import Literal, TypedDict, get_args

import pydantic

from finch_hub import errors
from finch_hub.specs.value import Config, NonNegativeInt, PositiveInt


class UnusualValueWarning(errors.FinchWarning):
    """A value is valid, but outside the range that suits small data sets."""


_USUAL: dict[str, tuple[float, float, str]] = {
    "rank": (4, 64, "smaller adapters rarely hold a domain, and larger ones overfit on 100 to 1,000 examples"),
    "alpha": (1.0, 32.0, "larger values of the scale alpha / rank make the usual learning rates unstable"),
    "dropout": (0.0, 0.3, "a larger value hides too much of few examples"),
}

LEAST_HELD_OUT = 8
"""Fewest validation examples for ``rank="auto"``, which measures the loss on them."""

ShortName = Literal["all-linear", "attention", "mlp"]


def parse_target_modules(text: str) -> tuple[str, ...] | str:
    """Return the target modules that a text names: a pattern, a short name, or names with commas between them."""
    if re.search(r"[\\^$*+?()\[\]{}|]", text):
        return text
    names = tuple(name.strip() for name in text.split(","))
    return names[0] if len(names) == 1 and names[0] in get_args(ShortName) else names


class LoRAConfig(Config):
    """Rank, scale and target modules of the update ``W + (alpha / rank) * B @ A``.

    Field names follow the literature; `finch_hub.engine.adapters.peft_fields` writes them as PEFT's.

    Attributes:
        rank: inner dimension r of ``A [r, in]`` and ``B [out, r]``; usually 4 to 64. ``"auto"`` trains a large rank,
            and keeps for each module the directions that lower the held-out loss. The scale is then that of rank 16.
        rank_tolerance: relative increase of the held-out loss that ``"auto"`` accepts for fewer parameters.
        rank_budget: maximum number of parameters for ``"auto"``, which excludes patterns and DoRA; None sets no limit.
        alpha: numerator of the scale; usually 1 to 32.
        dropout: probability of dropping an input of A in training; usually 0 to 0.3.
        target_modules: module names or their suffixes; or a string: ``"all-linear"``, ``"attention"``, ``"mlp"``, or a
            regular expression that matches whole module paths.
        exclude_modules: names or suffixes of modules that are not adapted.
        layers_to_transform: indices of the decoder layers that are adapted; None means all.
        rank_pattern: ranks of the modules whose path matches a key, as in PEFT.
        alpha_pattern: alphas of the modules whose path matches a key.
        use_rslora: scale by ``alpha / sqrt(rank)`` (arXiv 2312.03732).
        use_dora: also train a magnitude for each output (DoRA, arXiv 2402.09353).
        init: initial A. ``"shared"``: the same for all adapters of a base, so that they compose well; ``"random"``:
            from the training seed; ``"eva"``: from the data (arXiv 2410.07170); ``"start"``: that of the version that a
            job starts from, which only such jobs have, so that no earlier Finch Hub trains one anew.

    Raises:
        InvalidSpec: some fields are invalid, such as rank 0, alpha 0, dropout 1 or no modules.
    """

    rank: PositiveInt | Literal["auto"] = 16
    rank_tolerance: float = pydantic.Field(default=0.005, ge=0, lt=1)
    rank_budget: PositiveInt | None = None
    alpha: float = pydantic.Field(default=32.0, gt=0)
    dropout: float = pydantic.Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    exclude_modules: tuple[str, ...] = ()
    layers_to_transform: tuple[NonNegativeInt, ...] | None = None
    rank_pattern: dict[str, PositiveInt] = pydantic.Field(default_factory=dict)
    alpha_pattern: dict[str, pydantic.PositiveFloat] = pydantic.Field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    init: Literal["shared", "random", "eva", "start"] = "shared"

    @pydantic.field_validator("target_modules")
    @classmethod
    def _names_modules(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if not value or (isinstance(value, tuple) and not all(value)):
            raise ValueError("is empty; try ('q_proj', 'v_proj') or 'all-linear'")
        return value

    @pydantic.model_validator(mode="after")
    def _check_new(self, info: pydantic.ValidationInfo) -> LoRAConfig:
        if info.context and info.context.get("stored"):  # its author has seen the warnings
            return self
        if self.rank == "auto":
            clashing = ("rank_pattern", "alpha_pattern", "use_dora")
            if names := " and ".join(name for name in clashing if getattr(self, name)):
                raise ValueError(f'rank="auto" sets the ranks and scales of plain LoRA: leave out {names}')
        elif self.rank_budget is not None:
            raise ValueError('rank_budget is for rank="auto": leave it out, or set that rank')
        for name, (low, high, reason) in _USUAL.items():
            value = getattr(self, name)
            if isinstance(value, (int, float)) and not low <= value <= high:
                warnings.warn(
                    f"{name}={value:g} is outside the usual range {low:g} to {high:g}: {reason}",
                    UnusualValueWarning,
                    stacklevel=2,
                )
        return self


class LoRAOptions(TypedDict, total=False):
    """Fields of `LoRAConfig` as keyword arguments."""

    rank: int | Literal["auto"]
    rank_tolerance: float
    rank_budget: int | None
    alpha: float
    dropout: float
    target_modules: tuple[str, ...] | str
    exclude_modules: tuple[str, ...]
    layers_to_transform: tuple[int, ...] | None
    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    use_rslora: bool
    use_dora: bool
    init: Literal["shared", "random", "eva", "start"]
