"""LoRA adapter that can be attached to a base model: PEFT's layers in memory, PEFT's format on disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from peft.tuners.lora import LoraLayer, LoraModel
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from finch_hub import errors
from finch_hub.engine.adapters import initialization, peft_fields
from finch_hub.engine.adapters.adapter_files import read_adapter, write_adapter
from finch_hub.engine.adapters.weights import AdapterWeights, check_fit
from finch_hub.engine.bases import target_modules
from finch_hub.engine.bases.base import Base, load_base
from finch_hub.engine.bases.layout_builder import describe_model
from finch_hub.formats.output_paths import refuse_unnamed
from finch_hub.formats.peft_names import tensor_name
from finch_hub.specs.lora import LoRAConfig
from finch_hub.texts.summaries import Summarized


class AttachableAdapter(Summarized):
    """One LoRA adapter. The forward pass of its base includes the adapter while it is enabled.

    Without a base it holds a configuration, and its weights if they were loaded. Several adapters with different names
    can be attached to one base: the updates of all enabled adapters are added. As a context manager it detaches itself
    at the end.

    Args:
        config: rank, scale and target modules.
        base: a loaded base, or a source for :func:`finch_hub.engine.load_base`.
        name: unique among the adapters of the base.
        seed: seed of the initial A if `config.init` is "random".

    Attributes:
        layers: PEFT's layer of each adapted module, by the module's path in the model. Empty without a base.

    Raises:
        InvalidSpec: the configuration names modules that the base does not have, the name is in use on the base, or
            rank or initial A depend on training data.
    """

    def __init__(
        self, config: LoRAConfig, base: Base | str | Path | None = None, *, name: str = "default", seed: int = 0
    ) -> None:
        self.config = config
        self.name = name
        self.base: Base | None = None
        self.layers: dict[str, LoraLayer] = {}
        self._weights: AdapterWeights | None = None
        self._fields: dict[str, Any] = {}  # adapter_config.json
        if base is None:
            return
        _check_needs_no_data(config)
        loaded = base if isinstance(base, Base) else load_base(base)
        layout = describe_model(loaded.model, name=loaded.name)
        paths = target_modules.match(config, layout)
        self._fields = peft_fields.from_lora_config(config, loaded, layout, paths)
        self._attach(loaded, paths)
        label = initialization.SHARED if config.init != "random" else f"random {seed}"
        with torch.no_grad():
            for path, layer in self.layers.items():
                A = layer.lora_A[name].weight
                A.copy_(initialization.make_initial_a(path, A.shape[0], A.shape[1], seed=label))

    @classmethod
    def load(
        cls,
        path: str | Path,
        base: Base | str | Path | None = None,
        *,
        name: str = "default",
        dropout: float | None = None,
    ) -> Self:
        """Read an adapter from a PEFT folder or a `.safetensors` file. Attach and enable it if a base is given.

        Args:
            dropout: dropout of a further training; None keeps that of the file.

        Raises:
            NotFound: the file does not exist.
            RefusedArtifact: the file is not a LoRA adapter that is safe to read.
            Incompatible: the adapter does not fit the base.
        """
        weights = read_adapter(Path(path))
        if dropout is not None:
            weights = replace(weights, config={**weights.config, "lora_dropout": dropout})
        adapter = cls(peft_fields.to_lora_config(weights.config, weights.names), name=name)
        adapter._fields = weights.config
        adapter._weights = weights
        if base is not None:
            loaded = base if isinstance(base, Base) else load_base(base)
            check_fit(weights, loaded)
            adapter._attach(loaded, tuple(weights.modules))
            adapter.load_weights(weights)
        return adapter

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def _list_fields(self) -> Mapping[str, object]:
        return {
            "name": self.name,
            "config": self.config,
            "base": self.base.name if self.base is not None else None,
            "is_enabled": self.is_enabled,
            "trainable_parameters": self.trainable_parameters,
        }

    @property
    def is_enabled(self) -> bool:
        """Whether the base's forward pass includes this adapter."""
        return bool(self.layers) and all(self.name in layer.active_adapters for layer in self.layers.values())

    def enable(self) -> None:
        """Include the adapter in the base's forward pass."""
        self.require_base("enable")
        for layer in self.layers.values():
            layer.set_adapter([*self._other_active(layer), self.name])

    def disable(self) -> None:
        """Exclude the adapter from the forward pass. Alone, it then leaves the base's logits equal bit for bit."""
        for layer in self.layers.values():
            layer.set_adapter(self._other_active(layer))

    def detach(self) -> None:
        """Remove the adapter from its base and keep the weights. After the last one, the base has its own modules."""
        if self.base is None:
            return
        self._weights = self.weights()
        for path, layer in self.layers.items():
            if set(layer.lora_A.keys()) == {self.name}:
                parent, _, child = path.rpartition(".")
                setattr(self.base.model.get_submodule(parent), child, layer.get_base_layer())
            else:
                # Deactivate first: PEFT warns when an active adapter is deleted, and activates another one.
                layer.set_adapter(self._other_active(layer))
                layer.delete_adapter(self.name)
        self.layers = {}
        self.base = None

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trainable float32 parameters by their names in PEFT's file. Empty without a base."""
        parameters: dict[str, nn.Parameter] = {}
        for path, layer in self.layers.items():
            parameters[tensor_name(path, "A")] = layer.lora_A[self.name].weight
            parameters[tensor_name(path, "B")] = layer.lora_B[self.name].weight
            if self.name in layer.lora_magnitude_vector:
                parameters[tensor_name(path, "magnitude")] = layer.lora_magnitude_vector[self.name].weight
        return parameters

    @property
    def trainable_parameters(self) -> int:
        """Number of values that training changes."""
        if self.base is None:
            return self._weights.num_parameters if self._weights else 0
        return sum(parameter.numel() for parameter in self.parameters().values())

    @property
    def trainable_share(self) -> float:
        """Trainable parameters divided by all parameters of base and adapter. 0 without a base."""
        return self.trainable_parameters / (self.base.num_parameters + self.trainable_parameters) if self.base else 0.0

    def weights(self) -> AdapterWeights:
        """Return a copy of the weights on the CPU.

        Raises:
            InvalidSpec: the adapter was neither attached to a base nor loaded.
        """
        if self.base is None:
            if self._weights is None:
                raise self._without_base("has no weights yet")
            return self._weights
        copies = {name: parameter.detach().cpu().clone() for name, parameter in self.parameters().items()}
        return AdapterWeights(config=dict(self._fields), tensors=copies)

    def load_weights(self, weights: AdapterWeights) -> None:
        """Copy values from these weights.

        Raises:
            Incompatible: names or shapes differ from this adapter's.
        """
        own = self.parameters()
        problems = [
            errors.Problem(where=name, what=f"is missing from the {'weights' if name in own else 'adapter'}")
            for name in sorted(own.keys() ^ weights.tensors.keys())
        ]
        problems += [
            errors.Problem(where=name, what=f"has shape {list(tensor.shape)}, not {list(own[name].shape)}")
            for name, tensor in weights.tensors.items()
            if name in own and tensor.shape != own[name].shape
        ]
        if problems:
            raise errors.Incompatible(problems, subject=f"weights for adapter {self.name!r}")
        with torch.no_grad():
            for name, tensor in weights.tensors.items():
                own[name].copy_(tensor)
        for layer in self.layers.values():
            if self.name in layer.lora_magnitude_vector:
                layer.lora_magnitude_vector[self.name]._cache_clear()  # the norm of W + BA for the previous A and B

    def save(self, path: str | Path) -> None:
        """Write the adapter as a PEFT folder, or as one file if the path ends in `.safetensors`.

        Raises:
            InvalidSpec: the path is empty.
        """
        refuse_unnamed(path)
        write_adapter(self.weights(), Path(path))

    def require_base(self, action: str) -> Base:
        """Return the base. Without a base, raise `InvalidSpec` that names the action."""
        if self.base is None:
            raise self._without_base(f"cannot {action}: it has no base")
        return self.base

    def _without_base(self, what: str) -> errors.InvalidSpec:
        fix = "give it one: LoRAAdapter(config, base=...) or LoRAAdapter.load(path, base=...)"
        return errors.InvalidSpec(what, fix=fix, subject=f"adapter {self.name!r}")

    def _other_active(self, layer: LoraLayer) -> list[str]:
        return [name for name in layer.active_adapters if name != self.name]

    def _attach(self, base: Base, paths: tuple[str, ...]) -> None:
        """Wrap these modules in PEFT's layers: float32, B = 0, and enabled beside the adapters that are enabled."""
        present = {path: module for path, module in base.model.named_modules() if isinstance(module, LoraLayer)}
        if any(self.name in layer.lora_A for layer in present.values()):
            what = f"the base already has an adapter {self.name!r}"
            raise errors.InvalidSpec(what, fix="choose another name, or detach that adapter")
        active = {path: list(layer.active_adapters) for path, layer in present.items()}
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # PEFT warns of patterns that match nothing. `target_modules.match` has checked them already.
            warnings.simplefilter("ignore")
            LoraModel(base.model, peft_fields.for_layers(self._fields, paths), self.name)
        del base.model.peft_config  # the model does not become a PEFT model: this class keeps track of the layers
        self.base = base
        self.layers = {path: base.model.get_submodule(path) for path in paths}
        for layer in self.layers.values():
            for part in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
                if self.name in part:
                    part[self.name].float()
            if self.name in layer.lora_magnitude_vector:
                # PEFT rounds m to the base's dtype. In float32 m / ‖W‖ is exactly 1, so DoRA starts as the base.
                weight = dequantize_module_weight(layer.get_base_layer()).to(torch.float32)
                layer.lora_magnitude_vector[self.name].weight.data = torch.linalg.norm(weight, dim=1)
            layer.train(False)
        for path, layer in {**present, **self.layers}.items():
            own = [self.name] if path in self.layers else []
            layer.set_adapter([*active.get(path, []), *own])


def _check_needs_no_data(config: LoRAConfig) -> None:
    fix = "use GeneratorModel.fine_tune or finch_hub.engine.train, or choose another value"
    needs_data = {"rank": config.rank == "auto", "init": config.init == "eva"}
    if problems := [
        errors.Problem(where=field, what=f"{getattr(config, field)!r} needs training data", fix=fix)
        for field, needs in needs_data.items()
        if needs
    ]:
        raise errors.InvalidSpec(problems, subject="adapter")
