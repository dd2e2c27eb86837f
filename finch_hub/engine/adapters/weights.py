"""Weights of a LoRA adapter in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from finch_hub import errors
from finch_hub.formats.adapter_folder import scale_of
from finch_hub.formats.peft_names import Part, split_name


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
    def modules(self) -> dict[str, ModuleWeights]:
        """Weights of each adapted linear module, by the module's path in the model.

        Raises:
            Incompatible: the adapter changes embeddings, biases or whole modules, an A or B is missing, or a rank
                differs from the configuration's. The error has every problem.

        """
        parts: dict[str, dict[Part, Tensor]] = {}
        problems: list[errors.Problem] = []
        for name, tensor in self.tensors.items():
            path, part = split_name(name)
            if part in ("A", "B", "magnitude"):
                parts.setdefault(path, {})[part] = tensor
            else:
                problems.append(errors.Problem(where=name, what="is not a LoRA matrix of a linear module"))
        modules: dict[str, ModuleWeights] = {}
        for path, tensors in parts.items():
            if missing := sorted({"A", "B"} - tensors.keys()):
                problems.append(errors.Problem(where=path, what=f"has no {', '.join(missing)} matrix"))
                continue
            rank, scale = scale_of(self.config, path)
            A, B = tensors["A"], tensors["B"]
            if A.ndim != 2 or B.ndim != 2 or A.shape[0] != rank or B.shape[1] != rank:
                what = f"A {list(A.shape)} and B {list(B.shape)} do not have the configuration's rank {rank}"
                problems.append(errors.Problem(where=path, what=what))
                continue
            modules[path] = ModuleWeights(A=A, B=B, scale=scale, magnitude=tensors.get("magnitude"))
        if not modules and not problems:
            problems.append(errors.Problem(what="holds no tensors"))
        if problems:
            raise errors.Incompatible(problems, subject="adapter")
        return modules

    @property
    def num_parameters(self) -> int:
        """Number of values in all tensors."""
        return sum(tensor.numel() for tensor in self.tensors.values())
