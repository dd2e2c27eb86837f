"""Many adapters on one base at once: every row of a batch goes through its own.

PEFT's layers are for training; to serve, the base's modules stay as they are, and a forward hook on each adapted one
adds the low-rank update. Which adapter that is stands in one place, so switching touches no module.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from finch_hub import errors
from finch_hub.engine.weights import AdapterWeights, ModuleWeights


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
class MixedUpdate:
    """Another adapter, or none, for each row.

    A long input (a prompt) is computed run by run of rows that share an adapter. For a single token that would be
    hundreds of tiny products, so there all adapters' factors stand side by side in `A` [Σ rank, in] and `B`
    [out, Σ rank], and `mask` [rows, 1, Σ rank] lets each row see its own, times the scale.
    """

    runs: tuple[tuple[int, int, UniformUpdate | None], ...]
    A: Tensor
    B: Tensor
    mask: Tensor
    gain: Tensor | None

    def apply(self, x: Tensor, output: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output with each row's update in it."""
        if x.shape[1] == 1:
            update = F.linear(F.linear(x.to(self.A.dtype), self.A) * self.mask, self.B)
            if self.gain is None:
                return (output + update).to(output.dtype)
            return _with_gain(output, update, self.gain, bias)
        parts = [
            output[start:stop] if one is None else one.apply(x[start:stop], output[start:stop], bias)
            for start, stop, one in self.runs
        ]
        return torch.cat(parts)


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
        self._stacked: tuple[Hashable, dict[str, tuple[Tensor, Tensor]]] = ((), {})

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
        stacks = self._stacks(distinct)
        runs = [(name, len(list(rows))) for name, rows in itertools.groupby(names)]
        masks: dict[Hashable, Tensor] = {}
        return {path: self._mixed(path, names, distinct, runs, stacks[path], masks) for path in stacks}

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

    def _stacks(self, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Stand the factors of these adapters side by side; the last such stack is kept for the next batch."""
        key = tuple(names)
        if self._stacked[0] != key:
            paths = dict.fromkeys(path for name in names for path in self._adapters[name])
            stacks = {}
            for path in paths:
                updates = [self._adapters[name][path] for name in names if path in self._adapters[name]]
                stacks[path] = (torch.cat([u.A for u in updates]), torch.cat([u.B for u in updates], dim=1))
            self._stacked = (key, stacks)
        return self._stacked[1]

    def _mixed(
        self,
        path: str,
        names: Sequence[str | None],
        distinct: Sequence[str],
        runs: Sequence[tuple[str | None, int]],
        stack: tuple[Tensor, Tensor],
        masks: dict[Hashable, Tensor],
    ) -> MixedUpdate:
        updates = {name: self._adapters[name][path] for name in distinct if path in self._adapters[name]}
        A, B = stack
        # Modules whose adapters have the same ranks and scales share one mask.
        key = tuple((name, update.A.shape[0], update.scale) for name, update in updates.items())
        if key not in masks:
            mask = torch.zeros(len(names), 1, A.shape[0])
            start = 0
            for adapter, update in updates.items():
                stop = start + update.A.shape[0]
                mask[[row for row, wanted in enumerate(names) if wanted == adapter], :, start:stop] = update.scale
                start = stop
            masks[key] = mask.to(A.device)
        gain = None
        if any(update.gain is not None for update in updates.values()):
            gain = torch.ones(len(names), 1, B.shape[0], device=B.device)
            for row, name in enumerate(names):
                own = updates[name].gain if name in updates else None
                if own is not None:
                    gain[row, 0] = own
        stops = list(itertools.accumulate(length for _, length in runs))
        starts = [0, *stops[:-1]]
        return MixedUpdate(
            runs=tuple(
                (start, stop, updates.get(name) if name is not None else None)
                for start, stop, (name, _) in zip(starts, stops, runs, strict=True)
            ),
            A=A,
            B=B,
            mask=masks[key],
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
