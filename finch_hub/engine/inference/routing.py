"""Routing of each row of a batch through its own adapter.

PEFT's layers are for training. For inference the base's modules stay as they are, and a forward hook on each adapted
module adds the low-rank update. One plan holds the choice of adapters, so switching changes no module.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from finch_hub.engine.adapters.weights import AdapterWeights, ModuleWeights


class ModuleUpdate(Protocol):
    """Change of one module's output."""

    def apply(self, x: Tensor, output: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output [rows, length, out] of the module on x [rows, length, in] with the update."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class UniformUpdate:
    """Update of all rows by one adapter: ``output + (x Aᵀ) Bᵀ * scale``, in float32 as in PEFT's layer.

    All of the output but the bias is multiplied by DoRA's `gain` [out], ``m / ‖W + scale * B A‖``.
    """

    A: Tensor
    B: Tensor
    scale: float
    gain: Tensor | None

    def apply(self, x: Tensor, output: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output with the update."""
        update = F.linear(F.linear(x.to(self.A.dtype), self.A), self.B) * self.scale
        return _add(output, update, self.gain, bias)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class AdapterStack:
    """Factors of several adapters of one module, padded with zeros to one rank, with the scales in B.

    `A` is [adapters, in, rank], `B` is [adapters, rank, out], and `slots` has the index of each adapter by name.
    """

    slots: Mapping[str, int]
    A: Tensor
    B: Tensor

    @classmethod
    def of(cls, updates: Mapping[str, UniformUpdate]) -> AdapterStack:
        """Stack the updates of one module by these adapters."""
        first = next(iter(updates.values()))
        rank = max(len(update.A) for update in updates.values())
        A = first.A.new_zeros(len(updates), rank, first.A.shape[1])
        B = first.B.new_zeros(len(updates), rank, first.B.shape[0])
        for slot, update in enumerate(updates.values()):
            A[slot, : len(update.A)] = update.A
            B[slot, : len(update.A)] = update.B.T * update.scale
        return cls(slots={name: slot for slot, name in enumerate(updates)}, A=A.transpose(1, 2), B=B)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class RowGroups:
    """Rows of a batch in groups of equal size, one group for each adapter of a stack.

    `gather` [adapters * size] has the row at each index of the groups; the number of rows stands for a row of zeros.
    `indices` [rows] has the index of each row. Both are None if the rows are in this order already.
    """

    gather: Tensor | None
    indices: Tensor | None

    @classmethod
    def of(cls, slots: Sequence[int | None], count: int, device: torch.device) -> RowGroups:
        """Group rows by their adapters' slots. A row without an adapter gets an index with zeros."""
        members = [[row for row, own in enumerate(slots) if own == slot] for slot in range(count)]
        zeros, size = len(slots), max(map(len, members))
        if None in slots and all(len(rows) == size for rows in members):
            size += 1
        order = [row for rows in members for row in (*rows, *[zeros] * (size - len(rows)))]
        if order == list(range(len(slots))):
            return cls(gather=None, indices=None)
        index_of = {row: index for index, row in enumerate(order)}
        indices = [index_of[zeros if slot is None else row] for row, slot in enumerate(slots)]
        return cls(gather=torch.tensor(order, device=device), indices=torch.tensor(indices, device=device))


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class MixedUpdate:
    """Update of each row by its own adapter, or none.

    A prompt is computed in runs of neighboring rows that share an adapter. For a single token that would be hundreds
    of tiny matrix products. So rows are grouped by adapter, and all groups take two batched products.
    """

    runs: tuple[tuple[int, int, UniformUpdate | None], ...]
    stack: AdapterStack
    groups: RowGroups
    gain: Tensor | None

    def apply(self, x: Tensor, output: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output with each row's update."""
        if x.shape[1] == 1:
            return _add(output, self._update_one_token(x[:, 0].to(self.stack.A.dtype))[:, None], self.gain, bias)
        parts = [
            output[start:stop] if update is None else update.apply(x[start:stop], output[start:stop], bias)
            for start, stop, update in self.runs
        ]
        return torch.cat(parts)

    def _update_one_token(self, x: Tensor) -> Tensor:
        """Return the update [rows, out] of x [rows, in]."""
        stack, groups = self.stack, self.groups
        if groups.gather is not None:
            x = F.pad(x, (0, 0, 0, 1)).index_select(0, groups.gather)
        update = torch.bmm(torch.bmm(x.reshape(len(stack.A), -1, x.shape[1]), stack.A), stack.B).flatten(0, 1)
        return update if groups.indices is None else update.index_select(0, groups.indices)


def _add(output: Tensor, update: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    if gain is None:
        return (output + update).to(output.dtype)
    plain = output if bias is None else output - bias
    result = (plain + update) * gain
    return (result if bias is None else result + bias).to(output.dtype)


Plan = Mapping[str, ModuleUpdate]
"""Update of each adapted module for one batch, by the module's path."""


class AdapterRouter:
    """Adapters in memory, through which the rows of a batch are routed.

    The model's output changes only inside of :meth:`using`, its parameters and modules never. Use one thread at a time.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._adapters: dict[str, dict[str, UniformUpdate]] = {}
        self._hooks: dict[str, RemovableHandle] = {}
        self._plan: Plan = {}
        self._stacked: tuple[tuple[str, ...], Mapping[str, AdapterStack]] = ((), {})

    def load(self, name: str, weights: AdapterWeights) -> None:
        """Load an adapter into memory, on the device of its modules and in float32. It replaces one of the same name.

        Raises:
            Incompatible: the adapter changes embeddings, biases or whole modules.
        """
        updates = {path: self._load_module(path, module) for path, module in weights.modules.items()}
        self.unload(name)
        self._adapters[name] = updates

    def unload(self, name: str) -> None:
        """Remove an adapter from memory, if it is there. After the last one, the model has no hooks."""
        self._adapters.pop(name, None)
        self._stacked = ((), {})
        self._remove_idle_hooks()

    def plan(self, names: Sequence[str | None]) -> Plan:
        """Return the plan of a batch by the adapter of each row. None means the base alone.

        The plan holds the weights, so it stays valid when its adapters are unloaded or replaced.
        """
        distinct = sorted({name for name in names if name is not None})
        if not distinct:
            return {}
        if len(set(names)) == 1:
            return self._adapters[distinct[0]]
        stops = itertools.accumulate(len(list(rows)) for _, rows in itertools.groupby(names))
        bounds = list(itertools.pairwise([0, *stops]))
        grouped: dict[tuple[str, ...], RowGroups] = {}
        stacks = self._stacks(distinct)
        return {path: self._plan_module(path, names, bounds, stack, grouped) for path, stack in stacks.items()}

    @contextmanager
    def using(self, plan: Plan) -> Iterator[None]:
        """Route the model's computations in this context through the plan's adapters."""
        for path in plan.keys() - self._hooks.keys():
            self._hooks[path] = self._model.get_submodule(path).register_forward_hook(self._make_hook(path))
        before, self._plan = self._plan, plan
        try:
            yield
        finally:
            self._plan = before
            self._remove_idle_hooks()

    def _remove_idle_hooks(self) -> None:
        if not self._adapters and not self._plan:
            for hook in self._hooks.values():
                hook.remove()
            self._hooks = {}

    def _make_hook(self, path: str) -> Any:
        def add_update(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            update = self._plan.get(path)
            return None if update is None else update.apply(inputs[0], output, getattr(module, "bias", None))

        return add_update

    def _load_module(self, path: str, module: ModuleWeights) -> UniformUpdate:
        target = self._model.get_submodule(path)
        device = next(target.parameters()).device
        A, B = (factor.to(device, torch.float32) for factor in (module.A, module.B))
        gain = None
        if module.magnitude is not None:
            weight = dequantize_module_weight(target).to(torch.float32)
            norm = torch.linalg.norm(weight + module.scale * (B @ A), dim=1)
            gain = module.magnitude.to(device, torch.float32) / norm
        return UniformUpdate(A=A, B=B, scale=module.scale, gain=gain)

    def _stacks(self, names: Sequence[str]) -> Mapping[str, AdapterStack]:
        """Stack the factors of these adapters. The last stacks are reused while rows leave the batch."""
        stacked_names, stacks = self._stacked
        if not (set(names) <= set(stacked_names) and 2 * len(names) >= len(stacked_names)):
            updates: dict[str, dict[str, UniformUpdate]] = {}
            for name in names:
                for path, update in self._adapters[name].items():
                    updates.setdefault(path, {})[name] = update
            stacks = {path: AdapterStack.of(of_path) for path, of_path in updates.items()}
            self._stacked = (tuple(names), stacks)
        return stacks

    def _plan_module(
        self,
        path: str,
        names: Sequence[str | None],
        bounds: Sequence[tuple[int, int]],
        stack: AdapterStack,
        grouped: dict[tuple[str, ...], RowGroups],
    ) -> MixedUpdate:
        own = [self._adapters[name].get(path) if name is not None else None for name in names]
        key = tuple(stack.slots)
        if key not in grouped:  # modules with the same adapters share their groups
            slots = [stack.slots.get(name) if name is not None else None for name in names]
            grouped[key] = RowGroups.of(slots, len(stack.slots), stack.A.device)
        gain = None
        if any(update is not None and update.gain is not None for update in own):
            gain = torch.ones(len(names), 1, stack.B.shape[2], device=stack.B.device)
            for row, update in enumerate(own):
                if update is not None and update.gain is not None:
                    gain[row, 0] = update.gain
        runs = tuple((start, stop, own[start]) for start, stop in bounds)
        return MixedUpdate(runs=runs, stack=stack, groups=grouped[key], gain=gain)
