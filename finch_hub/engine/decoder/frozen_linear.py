"""Products with frozen weights: of linear modules that share their input as one, laid out for the processor."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

# Weights laid out anew are copies, one for each direction. They may take so much for a base's layers, and so much for
# its head: a constant, because a limit that followed the machine's free memory would make the bytes of a training
# follow it as well.
PREPARED_BYTES = 4 * 2**30
# Rows that the layout is chosen for; any number of rows can be multiplied.
_ROWS = 512


class Product:
    """Frozen linear modules that share their input, as one: weight [out, in], where out is the sum of theirs.

    Where it is prepared, the weights are copied into the layout that the processor's library multiplies with fastest;
    plain products lay them out anew each time. Measured on SmolLM2's shapes and 620 rows: bfloat16 345 → 400 GFLOP/s
    forward and 360 → 405 backward, float32 125-170 → 165-205.

    Args:
        modules: their weights must not change as long as this is used.
        prepared: copy the weights; for the backward direction once it is asked for.

    """

    def __init__(self, modules: Sequence[nn.Linear], *, prepared: bool) -> None:
        self._weights = [module.weight.detach() for module in modules]
        self._biases = [None if module.bias is None else module.bias.detach() for module in modules]
        self._seen = _identities(modules)
        self._prepared = prepared
        self.sizes = [len(weight) for weight in self._weights]
        self._forward = _laid_out(self._joined()) if prepared else None

    def holds(self, modules: Sequence[nn.Linear], *, prepared: bool) -> bool:
        """Tell whether this is what would be made of the modules now."""
        return self._prepared == prepared and self._seen == _identities(modules)

    def _joined(self) -> Tensor:
        return self._weights[0] if len(self._weights) == 1 else torch.cat(self._weights)

    @functools.cached_property
    def _backward(self) -> Tensor:
        return _laid_out(self._joined().T.contiguous())

    @functools.cached_property
    def bias(self) -> Tensor | None:
        """Of all outputs [out]; None if no module has one."""
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
        if self._prepared:
            with _laying_out:
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
        """Yield where each module's outputs stand among all."""
        for begin, end in itertools.pairwise(itertools.accumulate(self.sizes, initial=0)):
            yield slice(begin, end)


_laying_out = threading.Lock()  # threads that need the same copies at once shall not make one each
_known: WeakKeyDictionary[nn.Linear, Product] = WeakKeyDictionary()


def product_of(modules: Sequence[nn.Linear], *, prepared: bool) -> Product:
    """Return the modules' product, made once for as long as they live and keep their weights."""
    with _laying_out:
        found = _known.get(modules[0])
        if found is None or not found.holds(modules, prepared=prepared):
            found = _known[modules[0]] = Product(modules, prepared=prepared)
        return found


def can_prepare(modules: Sequence[nn.Linear]) -> bool:
    """Tell whether products of these, a model's layers or its head, can be prepared, and memory allows it."""
    weights = [module.weight for module in modules]
    if any(weight.device.type != "cpu" for weight in weights) or len({weight.dtype for weight in weights}) != 1:
        return False
    return 2 * sum(weight.nbytes for weight in weights) <= PREPARED_BYTES and _library_can(weights[0].dtype)


@functools.cache
def _library_can(dtype: torch.dtype) -> bool:
    """Try it: these operations are torch's own for compiled models, and not every build and processor has them."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    weight = torch.eye(16, dtype=dtype)
    try:
        y = torch.ops.mkldnn._linear_pointwise(weight, _laid_out(weight), None, "none", [], "")
    except (RuntimeError, AttributeError):
        return False
    return bool(torch.equal(y, weight))


def _laid_out(weight: Tensor) -> Tensor:
    laid_out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
    return laid_out


def _identities(modules: Sequence[nn.Linear]) -> list[tuple[int, int, torch.dtype]]:
    """Return what changes when a weight or bias is replaced or written to."""
    tensors = [tensor for module in modules for tensor in (module.weight, module.bias) if tensor is not None]
    return [(tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors]
