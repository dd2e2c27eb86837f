"""Products with frozen weights, prepacked for the processor."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from finch_hub.engine.bases.memory import PREPACKED_BYTES

# Rows that the prepacked layout is chosen for; any number of rows can be multiplied.
_ROWS = 512


class FrozenLinear:
    """Frozen linear modules that share their input, joined to one weight [out, in].

    Prepacked weights are copies in the layout that the processor's library multiplies fastest. Other weights are
    brought into this layout in every product. Measured on SmolLM2's shapes and 620 rows: bfloat16 345 → 400 GFLOP/s
    forward and 360 → 405 backward, float32 125-170 → 165-205. The backward pass makes its copy when it first runs. The
    modules' weights must not change while this is in use.
    """

    def __init__(self, modules: Sequence[nn.Linear], *, is_prepacked: bool) -> None:
        self._weights = [module.weight.detach() for module in modules]
        self._biases = [None if module.bias is None else module.bias.detach() for module in modules]
        self._versions = _tensor_versions(modules)
        self._is_prepacked = is_prepacked
        self.sizes = [len(weight) for weight in self._weights]
        self._forward = _prepack(self._join_weights()) if is_prepacked else None

    def is_current(self, modules: Sequence[nn.Linear], *, is_prepacked: bool) -> bool:
        """Return whether the modules and their weights are still those that this was made of."""
        return self._is_prepacked == is_prepacked and self._versions == _tensor_versions(modules)

    def _join_weights(self) -> Tensor:
        return self._weights[0] if len(self._weights) == 1 else torch.cat(self._weights)

    @functools.cached_property
    def _backward(self) -> Tensor:
        return _prepack(self._join_weights().T.contiguous())

    @functools.cached_property
    def bias(self) -> Tensor | None:
        """Bias of all outputs [out], None if no module has a bias."""
        if all(bias is None for bias in self._biases):
            return None
        pairs = zip(self._weights, self._biases, strict=True)
        return torch.cat([weight.new_zeros(len(weight)) if bias is None else bias for weight, bias in pairs])

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x Wᵀ + b`` [N, out] of x [N, in]."""
        if self._forward is not None:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._forward, self.bias, "none", [], "")
            return y
        if len(self._weights) == 1:
            return torch.nn.functional.linear(x, self._weights[0], self.bias)
        y = x.new_empty(len(x), sum(self.sizes))
        for weight, columns in zip(self._weights, self.columns(), strict=True):
            torch.mm(x, weight.T, out=y[:, columns])
        return y if self.bias is None else y.add_(self.bias)

    def backward(self, gradient: Tensor) -> Tensor:
        """Return ``g W`` [N, in] of the outputs' gradient g [N, out]."""
        if self._is_prepacked:
            with _prepacking:
                weight = self._backward
            x: Tensor = torch.ops.mkldnn._linear_pointwise(gradient, weight, None, "none", [], "")
            return x
        if len(self._weights) == 1:
            return gradient @ self._weights[0]
        x = gradient.new_zeros(len(gradient), self._weights[0].shape[1])
        for weight, columns in zip(self._weights, self.columns(), strict=True):
            x.addmm_(gradient[:, columns], weight)
        return x

    def columns(self) -> Iterator[slice]:
        """Yield the place of each module's outputs among all outputs."""
        for begin, end in itertools.pairwise(itertools.accumulate(self.sizes, initial=0)):
            yield slice(begin, end)


_prepacking = threading.Lock()  # otherwise several threads would make the same copies at once
_cache: WeakKeyDictionary[nn.Linear, FrozenLinear] = WeakKeyDictionary()


def get_frozen_linear(modules: Sequence[nn.Linear], *, is_prepacked: bool) -> FrozenLinear:
    """Return the joined modules, cached until the modules are deleted or their weights change."""
    with _prepacking:
        cached = _cache.get(modules[0])
        if cached is None or not cached.is_current(modules, is_prepacked=is_prepacked):
            cached = _cache[modules[0]] = FrozenLinear(modules, is_prepacked=is_prepacked)
        return cached


def can_prepack(modules: Sequence[nn.Linear]) -> bool:
    """Return whether the weights of a model's layers, or of its head, can be prepacked within the memory limit."""
    weights = [module.weight for module in modules]
    if any(weight.device.type != "cpu" for weight in weights) or len({weight.dtype for weight in weights}) != 1:
        return False
    return 2 * sum(weight.nbytes for weight in weights) <= PREPACKED_BYTES and _supports_prepacking(weights[0].dtype)


@functools.cache
def _supports_prepacking(dtype: torch.dtype) -> bool:
    """Try a product: these are torch's internal operations, and some builds and processors lack them."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    weight = torch.eye(16, dtype=dtype)
    try:
        y = torch.ops.mkldnn._linear_pointwise(weight, _prepack(weight), None, "none", [], "")
    except (RuntimeError, AttributeError):
        return False
    return bool(torch.equal(y, weight))


def _prepack(weight: Tensor) -> Tensor:
    prepacked: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return prepacked


def _tensor_versions(modules: Sequence[nn.Linear]) -> list[tuple[int, int, torch.dtype]]:
    """Return values that change when a weight or bias is replaced or written to."""
    tensors = [tensor for module in modules for tensor in (module.weight, module.bias) if tensor is not None]
    return [(tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors]
