"""Weights of a LoRA adapter in memory, and the check that they fit a base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from finch_hub import errors
from finch_hub.artifacts.base_fit import find_misfits
from finch_hub.engine.bases.base import Base
from finch_hub.engine.bases.layout_builder import describe_model
from finch_hub.formats.lora_modules import LoRAModule, find_modules


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleWeights:
    """Update of one linear module: ``scale * B @ A``.

    Attributes:
        A: [rank, in].
        B: [out, rank].
        scale: alpha / rank, or alpha / √rank with rsLoRA.
        magnitude: DoRA's magnitudes [out]; None without DoRA.
    """

    A: Tensor
    B: Tensor
    scale: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """Inner dimension of the update."""
        return self.A.shape[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class AdapterWeights:
    """Adapter as PEFT stores it.

    Attributes:
        config: the fields of ``adapter_config.json``.
        tensors: by their names in the file.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor] = field(repr=False)

    @cached_property
    def names(self) -> Mapping[str, LoRAModule]:
        """Names of the tensors of each adapted linear module, with its rank and scale, by the module's path.

        Raises:
            Incompatible: the adapter changes embeddings, biases or whole modules, an A or B is missing, or a rank
                differs from the configuration's. The error has every problem.
        """
        found = find_modules({name: tuple(tensor.shape) for name, tensor in self.tensors.items()}, self.config)
        embeddings = [path for path, module in found.modules.items() if module.embedding]
        biases = [module.bias for module in found.modules.values() if module.bias is not None]
        problems = [
            errors.Problem(where=name, what="is not a LoRA matrix of a linear module")
            for name in (*found.others, *embeddings, *biases)
        ]
        problems += found.problems
        if not self.tensors:
            problems.append(errors.Problem(what="holds no tensors"))
        if problems:
            raise errors.Incompatible(problems, subject="adapter")
        return found.modules

    @cached_property
    def modules(self) -> dict[str, ModuleWeights]:
        """Weights of each adapted linear module, by the module's path in the model.

        Raises:
            Incompatible: as from :attr:`names`.
        """
        return {
            path: ModuleWeights(
                A=self.tensors[module.a],
                B=self.tensors[module.b],
                scale=module.scale,
                magnitude=None if module.magnitude is None else self.tensors[module.magnitude],
            )
            for path, module in self.names.items()
        }

    @property
    def num_parameters(self) -> int:
        """Number of values in all tensors."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def check_fit(weights: AdapterWeights, base: Base) -> None:
    """Check that the base has every module of the adapter, in the adapter's shape.

    Raises:
        Incompatible: one problem for each module that does not fit.
    """
    layout = describe_model(base.model, name=base.name)
    if problems := list(find_misfits(weights.names, {}, weights.config, layout)):
        raise errors.Incompatible(problems, subject=f"adapter for a base other than {base.name}")
