"""LoRA adapters on a base in memory: PEFT's layers while they are trained, PEFT's format on disk."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import peft
import torch
from peft.tuners.lora import LoraLayer, LoraModel
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from finch_hub import errors
from finch_hub.engine.adapters import initialization
from finch_hub.engine.adapters.weights import AdapterWeights, ModuleWeights, read, write
from finch_hub.engine.bases import target_modules
from finch_hub.engine.bases.loading import Base, load_base
from finch_hub.formats.adapter_folder import PREFIX
from finch_hub.specs.examples import Pairs, examples_of
from finch_hub.specs.lora import LoRAConfig, UnusualValueWarning
from finch_hub.specs.training import TrainingConfig

if TYPE_CHECKING:
    from finch_hub.specs.reports import TrainingReport

__all__ = ["AdapterWeights", "LoRAAdapter", "ModuleWeights", "attach", "linear_modules", "read", "write"]


class LoRAAdapter:
    """One adapter; on a base it takes part in the base's forward pass while it is enabled.

    Without a base it holds a configuration, and the weights that it was loaded with. Several adapters may be on one
    base under different names; those that are enabled add up.

    Args:
        config: rank, scale and place.
        base: the model to adapt, or what :func:`finch_hub.engine.bases.loading.load_base` takes.
        name: tells it from other adapters on the same base.
        seed: of the initial A where `config.init` is "random".

    Attributes:
        layers: PEFT's layer of each adapted module, by the module's path in the model; empty without a base.

    Raises:
        InvalidSpec: the configuration names modules that the base does not have, the name is taken there, or rank or
            initial A are to be found from data.

    """

    def __init__(
        self, config: LoRAConfig, base: Base | str | Path | None = None, *, name: str = "default", seed: int = 0
    ) -> None:
        self.config = config
        self.name = name
        self.base: Base | None = None
        self.layers: dict[str, LoraLayer] = {}
        self._weights: AdapterWeights | None = None
        self._fields: dict[str, Any] = {}
        if base is None:
            return
        _check_needs_no_data(config)
        loaded = base if isinstance(base, Base) else load_base(base)
        modules = linear_modules(loaded.model)
        self._fields = peft_fields(config, loaded, modules)
        self._put_on(loaded, target_modules.match(config, modules))
        label = initialization.SHARED if config.init != "random" else f"random {seed}"
        with torch.no_grad():
            for path, layer in self.layers.items():
                A = layer.lora_A[name].weight
                A.copy_(initialization.initial_a(path, A.shape[0], A.shape[1], seed=label))

    @classmethod
    def load(cls, path: str | Path, base: Base | str | Path | None = None, *, name: str = "default") -> Self:
        """Read an adapter from a PEFT folder or a `.safetensors` file; with a base, put it there, enabled.

        Raises:
            NotFound: there is no such file.
            RefusedArtifact: it is no adapter that can be trusted.
            Incompatible: it does not fit the base.

        """
        weights = read(Path(path))
        adapter = cls(config_of(weights.config), name=name)
        adapter._fields = weights.config
        adapter._weights = weights
        if base is not None:
            loaded = base if isinstance(base, Base) else load_base(base)
            check_fit(weights, loaded)
            adapter._put_on(loaded, tuple(weights.modules))
            adapter.load_weights(weights)
        return adapter

    @property
    def is_enabled(self) -> bool:
        """Whether the base's forward pass includes this adapter."""
        return bool(self.layers) and all(self.name in layer.active_adapters for layer in self.layers.values())

    def enable(self) -> None:
        """Take part in the base's forward pass.

        Raises:
            InvalidSpec: there is no base.

        """
        self._on_base("enable")
        for layer in self.layers.values():
            others = [other for other in layer.active_adapters if other != self.name]
            layer.set_adapter([*others, self.name])

    def disable(self) -> None:
        """Take no part in it: with no other adapter on the base, its logits are the base's own, bit for bit."""
        for layer in self.layers.values():
            layer.set_adapter([other for other in layer.active_adapters if other != self.name])

    def detach(self) -> None:
        """Leave the base, keeping the weights; with the last adapter the base's own modules are back in place."""
        if self.base is None:
            return
        self._weights = self.weights()
        for path, layer in self.layers.items():
            rest = [other for other in layer.active_adapters if other != self.name]
            if set(layer.lora_A.keys()) == {self.name}:
                parent, _, child = path.rpartition(".")
                setattr(self.base.model.get_submodule(parent), child, layer.get_base_layer())
            else:
                layer.set_adapter(rest)  # before: PEFT warns of an active one that is deleted, and makes another active
                layer.delete_adapter(self.name)
        self.layers = {}
        self.base = None

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters, float32, by the names they have in PEFT's file; empty without a base."""
        found: dict[str, nn.Parameter] = {}
        for path, layer in self.layers.items():
            found[f"{PREFIX}{path}.lora_A.weight"] = layer.lora_A[self.name].weight
            found[f"{PREFIX}{path}.lora_B.weight"] = layer.lora_B[self.name].weight
            if self.name in layer.lora_magnitude_vector:
                found[f"{PREFIX}{path}.lora_magnitude_vector"] = layer.lora_magnitude_vector[self.name].weight
        return found

    @property
    def trainable_parameters(self) -> int:
        """Number of values that training changes."""
        if self.base is None:
            return self._weights.parameters if self._weights else 0
        return sum(parameter.numel() for parameter in self.parameters().values())

    @property
    def trainable_share(self) -> float:
        """Trained parameters over all parameters of base and adapter, 0 without a base."""
        return self.trainable_parameters / (self.base.parameters + self.trainable_parameters) if self.base else 0.0

    def weights(self) -> AdapterWeights:
        """Return a copy of the weights, on the CPU.

        Raises:
            InvalidSpec: there are none: the adapter was neither put on a base nor loaded.

        """
        if self.base is None:
            if self._weights is None:
                raise errors.InvalidSpec(_no_base("has no weights yet"), subject=f"adapter {self.name!r}")
            return self._weights
        copies = {name: parameter.detach().cpu().clone() for name, parameter in self.parameters().items()}
        return AdapterWeights(dict(self._fields), copies)

    def load_weights(self, weights: AdapterWeights) -> None:
        """Take over the values of these weights.

        Raises:
            Incompatible: names or shapes differ from this adapter's.

        """
        own = self.parameters()
        problems = [
            errors.Problem(where=name, what="is not in both") for name in sorted(own.keys() ^ weights.tensors.keys())
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
                layer.lora_magnitude_vector[self.name]._cache_clear()  # the norm of W + BA, for the former B and A

    def save(self, path: str | Path) -> None:
        """Write the adapter as a PEFT folder, or as one file where the path ends in `.safetensors`.

        Raises:
            InvalidSpec: it has no weights yet.

        """
        write(self.weights(), Path(path))

    def train(
        self,
        examples: Pairs,
        epochs: int | None = None,
        lr: float | None = None,
        *,
        validation: Pairs | None = None,
        training: TrainingConfig | None = None,
        system: str | None = None,
    ) -> TrainingReport:
        """Train the adapter further on examples, and leave it enabled on its base.

        Args:
            examples: (prompt, completion) pairs, mappings with these keys or with `messages`, or examples.
            epochs: passes over them; None takes it from `training`.
            lr: peak learning rate; None takes it from `training`.
            validation: examples to measure on; None holds out the share that `training` says.
            training: everything else.
            system: system prompt of the examples that have none.

        Raises:
            InvalidSpec: there is no base.
            InvalidDataset: examples that cannot be used, all of them by their position.
            TrainingFailed: training started and could not go on.

        """
        from finch_hub.engine.training import loop

        base = self._on_base("train")
        changes = {"epochs": epochs, "learning_rate": lr}
        settings = (training or TrainingConfig()).evolve(**{k: v for k, v in changes.items() if v is not None})
        trained = loop.train(
            base,
            self.config,
            settings,
            examples_of(examples),
            None if validation is None else examples_of(validation),
            system=system,
            adapter=self,
        )
        return trained.report

    def _on_base(self, verb: str) -> Base:
        if self.base is None:
            raise errors.InvalidSpec(_no_base(f"cannot {verb}: it has no base"), subject=f"adapter {self.name!r}")
        return self.base

    def _put_on(self, base: Base, paths: tuple[str, ...]) -> None:
        """Put PEFT's layers around these modules, float32, B = 0, enabled beside what is enabled already."""
        present = {path: module for path, module in base.model.named_modules() if isinstance(module, LoraLayer)}
        if any(self.name in layer.lora_A for layer in present.values()):
            raise errors.InvalidSpec(
                errors.Problem(
                    what=f"the base already has an adapter {self.name!r}", fix="give another name, or detach it"
                )
            )
        active = {path: list(layer.active_adapters) for path, layer in present.items()}
        fields = {**self._fields, "target_modules": list(paths), "exclude_modules": None, "inference_mode": False}
        fields |= {"layers_to_transform": None, "layers_pattern": None, "init_lora_weights": True}
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # Whether patterns and exclusions match is checked before, with all problems at once.
            warnings.simplefilter("ignore")
            LoraModel(base.model, peft.LoraConfig(**_known(fields)), self.name)
        del base.model.peft_config  # the model is no PEFT model: this adapter keeps track
        self.base = base
        self.layers = {path: base.model.get_submodule(path) for path in paths}
        for layer in self.layers.values():
            for part in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
                if self.name in part:
                    part[self.name].float()
            if self.name in layer.lora_magnitude_vector:
                # PEFT rounds it to the base's dtype; exact, m / ‖W‖ is one and the adapter begins as the base itself.
                weight = dequantize_module_weight(layer.get_base_layer()).to(torch.float32)
                layer.lora_magnitude_vector[self.name].weight.data = torch.linalg.norm(weight, dim=1)
            layer.train(False)
        for path, layer in {**present, **self.layers}.items():
            own = [self.name] if path in self.layers else []
            layer.set_adapter([*active.get(path, []), *own])


def attach(base: Base, config: LoRAConfig, *, name: str = "default", seed: int = 0) -> LoRAAdapter:
    """Put a new adapter on the base: B = 0, so that it begins as the base itself; A as `config.init` says.

    Raises:
        InvalidSpec: the configuration names modules that the base does not have, or the name is taken there.

    """
    return LoRAAdapter(config, base, name=name, seed=seed)


def _check_needs_no_data(config: LoRAConfig) -> None:
    fix = "GeneratorModel.fine_tune and finch_hub.engine.training.loop.train do it; or give another"
    found = {"rank": config.rank == "auto", "init": config.init == "eva"}
    if problems := [
        errors.Problem(where=field, what=f"{getattr(config, field)!r} is found from the training data", fix=fix)
        for field, there in found.items()
        if there
    ]:
        raise errors.InvalidSpec(problems, subject="an adapter that is put on a base before its training")


def linear_modules(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return path and shape (out, in) of every linear module but the language-model head."""
    found: dict[str, tuple[int, int]] = {}
    for path, module in model.named_modules():
        inside = path.rsplit(".base_layer", 1)[0] != path or ".lora_" in path
        if isinstance(module, (nn.Linear, LoraLayer)) and not inside and not target_modules.is_embedding(path):
            found[path] = (module.out_features, module.in_features)
    return found


def check_fit(weights: AdapterWeights, base: Base) -> None:
    """Check that every module of the adapter is in the base, with that shape.

    Raises:
        Incompatible: with every module that is not.

    """
    problems = []
    for path, module in weights.modules.items():
        try:
            target = base.model.get_submodule(path)
        except AttributeError:
            problems.append(errors.Problem(where=path, what="the base has no such module"))
            continue
        shape = (getattr(target, "out_features", None), getattr(target, "in_features", None))
        wanted = (module.B.shape[0], module.A.shape[1])
        if shape != wanted:
            problems.append(
                errors.Problem(where=path, what=f"the adapter is for {list(wanted)}, the base has {list(shape)}")
            )
    if problems:
        raise errors.Incompatible(problems, subject=f"adapter for another base than {base.name}")


def peft_fields(config: LoRAConfig, base: Base, modules: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Return the configuration as the fields of PEFT's `adapter_config.json`, in plain JSON values."""
    made = peft.LoraConfig(
        r=config.rank if isinstance(config.rank, int) else target_modules.rank_of(config, ""),
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=target_modules.peft_targets(config, modules),
        exclude_modules=list(config.exclude_modules) or None,
        layers_to_transform=target_modules.peft_layers(config),
        rank_pattern=dict(config.rank_pattern),
        alpha_pattern=dict(config.alpha_pattern),
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        task_type="CAUSAL_LM",
        base_model_name_or_path=base.name,
        revision=base.revision,
        inference_mode=True,
    )
    return {name: _plain(value) for name, value in made.to_dict().items()}


def config_of(fields: dict[str, Any]) -> LoRAConfig:
    """Return the configuration that PEFT's fields describe; unusual values of strangers are taken as they are."""
    wanted = fields.get("target_modules")
    layers = fields.get("layers_to_transform")
    excluded = fields.get("exclude_modules") or ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusualValueWarning)
        return LoRAConfig.of(
            {
                "rank": fields.get("r", 8),
                "alpha": fields.get("lora_alpha", 8),
                "dropout": fields.get("lora_dropout") or 0.0,
                "target_modules": wanted if isinstance(wanted, str) else tuple(wanted or ()),
                "exclude_modules": (excluded,) if isinstance(excluded, str) else tuple(excluded),
                "layers_to_transform": (layers,) if isinstance(layers, int) else layers,
                "rank_pattern": fields.get("rank_pattern") or {},
                "alpha_pattern": fields.get("alpha_pattern") or {},
                "use_rslora": bool(fields.get("use_rslora")),
                "use_dora": bool(fields.get("use_dora")),
            },
            subject="adapter_config.json",
        )


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    """Keep the fields that this version of PEFT knows."""
    return {name: value for name, value in fields.items() if name in peft.LoraConfig.__dataclass_fields__}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return getattr(value, "value", value)


def _no_base(what: str) -> errors.Problem:
    return errors.Problem(
        what=what, fix="give it one: LoRAAdapter(config, base=...) or LoRAAdapter.load(path, base=...)"
    )
