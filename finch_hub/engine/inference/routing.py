"""Many adapters on one base at once: every row of a batch goes through its own.

PEFT's layers are for training; to serve, the base's modules stay as they are, and a forward hook on each adapted one
adds the low-rank update. Which adapter that is stands in one place, so switching touches no module.
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

from finch_hub import errors
from finch_hub.engine.adapters.weights import AdapterWeights, ModuleWeights


class Update(Protocol):
    """What is added to the output of one module."""

    def apply(self, x: Tensor, output: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output [rows, length, out] of the module on x [rows, length, in] with the update in it."""


Plan = Mapping[str, Update]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class UniformUpdate:
    """One adapter for all rows: ``output + (x Aᵀ) Bᵀ * scale``, in float32, as PEFT's layer computes it.

    `gain` [out] is DoRA's ``m / ‖W + scale * B A‖``, by which everything but the bias is multiplied.
    """

    A: Tensor
    B: Tensor
    scale: float
    gain: Tensor | None

    def apply(self, x: Tensor, output: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output with the update in it."""
        update = F.linear(F.linear(x.to(self.A.dtype), self.A), self.B) * self.scale
        if self.gain is None:
            return (output + update).to(output.dtype)
        return _with_gain(output, update, self.gain, bias)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Stack:
    """Factors of several adapters of one module, filled up with zeros to one rank, the scales in B.

    `A` is [adapters, in, rank], `B` [adapters, rank, out]; `slots` says which adapter is where.
    """

    slots: Mapping[str, int]
    A: Tensor
    B: Tensor

    @classmethod
    def of(cls, updates: Mapping[str, UniformUpdate]) -> Stack:
        """Copy the factors of these adapters, all of the same module."""
        first = next(iter(updates.values()))
        rank = max(len(update.A) for update in updates.values())
        A = first.A.new_zeros(len(updates), rank, first.A.shape[1])
        B = first.B.new_zeros(len(updates), rank, first.B.shape[0])
        for slot, update in enumerate(updates.values()):
            A[slot, : len(update.A)] = update.A
            B[slot, : len(update.A)] = update.B.T * update.scale
        return cls(slots={name: slot for slot, name in enumerate(updates)}, A=A.transpose(1, 2), B=B)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Groups:
    """Where the rows of a batch stand among groups of one size, one for each adapter of a stack.

    `gather` [adapters * size] names each place's row, a row of zeros past the last one filling up; `places` [rows] each
    row's place. Both are None where the rows stand so already.
    """

    gather: Tensor | None
    places: Tensor | None

    @classmethod
    def of(cls, slots: Sequence[int | None], count: int, device: torch.device) -> Groups:
        """Group rows by their adapters' slots; those without one get a place that is filled with zeros."""
        members = [[row for row, own in enumerate(slots) if own == slot] for slot in range(count)]
        zeros, size = len(slots), max(map(len, members))
        if None in slots and all(len(rows) == size for rows in members):
            size += 1
        order = [row for rows in members for row in (*rows, *[zeros] * (size - len(rows)))]
        if order == list(range(len(slots))):
            return cls(gather=None, places=None)
        place_of = {row: place for place, row in enumerate(order)}
        places = [place_of[zeros if slot is None else row] for row, slot in enumerate(slots)]
        return cls(gather=torch.tensor(order, device=device), places=torch.tensor(places, device=device))


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class MixedUpdate:
    """Another adapter, or none, for each row.

    A long input (a prompt) is computed run by run of rows that share an adapter. For a single token that would be
    hundreds of tiny products, so there the rows are grouped by adapter and all groups go through two batched products.
    """

    runs: tuple[tuple[int, int, UniformUpdate | None], ...]
    stack: Stack
    groups: Groups
    gain: Tensor | None

    def apply(self, x: Tensor, output: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output with each row's update in it."""
        if x.shape[1] == 1:
            update = self._of_one_token(x[:, 0].to(self.stack.A.dtype))[:, None]
            if self.gain is None:
                return (output + update).to(output.dtype)
            return _with_gain(output, update, self.gain, bias)
        parts = [
            output[start:stop] if one is None else one.apply(x[start:stop], output[start:stop], bias)
            for start, stop, one in self.runs
        ]
        return torch.cat(parts)

    def _of_one_token(self, x: Tensor) -> Tensor:
        """Return the update [rows, out] of x [rows, in]."""
        stack, groups = self.stack, self.groups
        if groups.gather is not None:
            x = F.pad(x, (0, 0, 0, 1)).index_select(0, groups.gather)
        update = torch.bmm(torch.bmm(x.reshape(len(stack.A), -1, x.shape[1]), stack.A), stack.B).flatten(0, 1)
        return update if groups.places is None else update.index_select(0, groups.places)


class AdapterRouter:
    """Holds adapters in memory and sends the rows of a batch through them.

    Nothing happens to the model's output but inside of :meth:`using`. One thread at a time.

    Args:
        model: whose linear modules are adapted; its parameters and modules are never changed.

    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._adapters: dict[str, dict[str, UniformUpdate]] = {}
        self._hooks: dict[str, RemovableHandle] = {}
        self._plan: Plan = {}
        self._stacked: tuple[tuple[str, ...], Mapping[str, Stack]] = ((), {})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters in memory."""
        return tuple(self._adapters)

    def load(self, name: str, weights: AdapterWeights) -> None:
        """Put an adapter into memory, on the device of its modules and in float32; the name's former one is dropped.

        Raises:
            Incompatible: it changes more than linear modules (embeddings, biases, whole modules).

        """
        updates = {path: self._update(path, module) for path, module in weights.modules.items()}
        self.unload(name)
        self._adapters[name] = updates

    def unload(self, name: str) -> None:
        """Drop an adapter from memory, if it is there; with the last one the model has no hooks left."""
        self._adapters.pop(name, None)
        self._stacked = ((), {})
        self._remove_idle_hooks()

    def plan(self, names: Sequence[str | None]) -> Plan:
        """Prepare a batch whose rows go through these adapters, None being the base alone.

        The plan holds the weights: it stays good when its adapters are unloaded or replaced.
        """
        distinct = sorted({name for name in names if name is not None})
        if not distinct:
            return {}
        if len(set(names)) == 1:
            return self._adapters[distinct[0]]
        lengths = [len(list(rows)) for _, rows in itertools.groupby(names)]
        grouped: dict[tuple[str, ...], Groups] = {}
        return {
            path: self._mixed(path, names, lengths, stack, grouped) for path, stack in self._stacks(distinct).items()
        }

    @contextmanager
    def using(self, plan: Plan) -> Iterator[None]:
        """Send what the model computes in this context through the plan's adapters."""
        for path in plan.keys() - self._hooks.keys():
            self._hooks[path] = self._model.get_submodule(path).register_forward_hook(self._hook(path))
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

    def _hook(self, path: str) -> Any:
        def add_update(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            update = self._plan.get(path)
            return None if update is None else update.apply(inputs[0], output, getattr(module, "bias", None))

        return add_update

    def _update(self, path: str, module: ModuleWeights) -> UniformUpdate:
        target = self._model.get_submodule(path)
        device = next(target.parameters()).device
        A, B = (factor.to(device, torch.float32) for factor in (module.A, module.B))
        gain = None
        if module.magnitude is not None:
            weight = dequantize_module_weight(target).to(torch.float32)
            norm = torch.linalg.norm(weight + module.scale * (B @ A), dim=1)
            gain = module.magnitude.to(device, torch.float32) / norm
        return UniformUpdate(A=A, B=B, scale=module.scale, gain=gain)

    def _stacks(self, names: Sequence[str]) -> Mapping[str, Stack]:
        """Stack the factors of these adapters; the last stacks are kept, also while adapters leave the batch."""
        held, stacks = self._stacked
        if not (set(names) <= set(held) and 2 * len(names) >= len(held)):
            updates: dict[str, dict[str, UniformUpdate]] = {}
            for name in names:
                for path, update in self._adapters[name].items():
                    updates.setdefault(path, {})[name] = update
            stacks = {path: Stack.of(of_path) for path, of_path in updates.items()}
            self._stacked = (tuple(names), stacks)
        return stacks

    def _mixed(
        self,
        path: str,
        names: Sequence[str | None],
        lengths: Sequence[int],
        stack: Stack,
        grouped: dict[tuple[str, ...], Groups],
    ) -> MixedUpdate:
        own = [self._adapters[name].get(path) if name is not None else None for name in names]
        key = tuple(stack.slots)
        if key not in grouped:  # modules that the same adapters have share their groups
            slots = [stack.slots.get(name) if name is not None else None for name in names]
            grouped[key] = Groups.of(slots, len(stack.slots), stack.A.device)
        gain = None
        if any(update is not None and update.gain is not None for update in own):
            gain = torch.ones(len(names), 1, stack.B.shape[2], device=stack.B.device)
            for row, update in enumerate(own):
                if update is not None and update.gain is not None:
                    gain[row, 0] = update.gain
        stops = list(itertools.accumulate(lengths))
        starts = [0, *stops[:-1]]
        return MixedUpdate(
            runs=tuple((start, stop, own[start]) for start, stop in zip(starts, stops, strict=True)),
            stack=stack,
            groups=grouped[key],
            gain=gain,
        )


def check_rows(names: Sequence[str | None], rows: int) -> None:
    """Check that there is an adapter, or None, for each row.

    Raises:
        InvalidSpec: there are more or fewer.

    """
    if len(names) != rows:
        raise errors.InvalidSpec(
            errors.Problem(what=f"{len(names)} adapters for {rows} prompts", fix="give one for each, or one for all")
        )


def _with_gain(output: Tensor, update: Tensor, gain: Tensor, bias: Tensor | None) -> Tensor:
    plain = output if bias is None else output - bias
    result = (plain + update) * gain
    return (result if bias is None else result + bias).to(output.dtype)
