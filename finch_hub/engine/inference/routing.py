"""Routing of each row of a batch through its own adapter.

PEFT's layers are for training. For inference the base's modules stay as they are, and a forward hook on each adapted
module adds the low-rank update. One plan holds the choice of adapters, so switching changes no module.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from finch_hub import errors
from finch_hub.engine.adapters.weights import AdapterWeights, ModuleWeights
from finch_hub.engine.inference.module_updates import AdapterStack, MixedUpdate, ModuleUpdate, RowGroups, UniformUpdate

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

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters in memory."""
        return tuple(self._adapters)

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
        lengths = [len(list(rows)) for _, rows in itertools.groupby(names)]
        grouped: dict[tuple[str, ...], RowGroups] = {}
        return {
            path: self._plan_module(path, names, lengths, stack, grouped)
            for path, stack in self._stacks(distinct).items()
        }

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
        lengths: Sequence[int],
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
        stops = list(itertools.accumulate(lengths))
        starts = [0, *stops[:-1]]
        return MixedUpdate(
            runs=tuple((start, stop, own[start]) for start, stop in zip(starts, stops, strict=True)),
            stack=stack,
            groups=grouped[key],
            gain=gain,
        )


def check_rows(names: Sequence[str | None], rows: int) -> None:
    """Check that each row has an adapter or None, or raise `InvalidSpec`."""
    if len(names) != rows:
        raise errors.InvalidSpec(
            errors.Problem(
                what=f"{len(names)} adapters for {rows} prompts", fix="give one for each prompt, or one for all"
            )
        )
