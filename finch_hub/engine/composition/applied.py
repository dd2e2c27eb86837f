"""Let a low-rank update act in a loaded model for a while, without touching its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from finch_hub import errors
from finch_hub.engine.composition.factors import Factors


@contextlib.contextmanager
def applied(model: nn.Module, factors: Mapping[str, Factors]) -> Iterator[None]:
    """Add ``B A x`` to the output of every named linear module inside the with-block, as PEFT's layers would.

    Products of the factors are computed in the factors' dtype (float32), the sum rounded to the model's.

    Raises:
        Incompatible: the model lacks a module, or has it in another shape; all of them at once.

    """
    check_fit(model, factors)
    handles = [
        model.get_submodule(path).register_forward_hook(_adding(update.A, update.B)) for path, update in factors.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(A: Tensor, B: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return (output + F.linear(F.linear(inputs[0].to(A.dtype), A), B)).to(output.dtype)

    return hook


def check_fit(model: nn.Module, factors: Mapping[str, Factors]) -> None:
    """Refuse factors of another base, naming every module that does not fit.

    Raises:
        Incompatible: see above.

    """
    modules = dict(model.named_modules())
    problems: list[errors.Problem] = []
    for path, update in factors.items():
        weight = getattr(modules.get(path), "weight", None)
        shape = [update.B.shape[0], update.A.shape[1]]
        if weight is None:
            problems.append(errors.Problem(where=path, what="the base has no such module"))
        elif sorted(weight.shape) != sorted(shape):
            problems.append(errors.Problem(where=path, what=f"shape {shape}, the base's is {list(weight.shape)}"))
    if problems:
        raise errors.Incompatible(problems, subject="the adapters are not of this base")
