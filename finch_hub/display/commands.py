"""Commands that repeat jobs, as a user can type them into a shell."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from finch_hub.specs.jobs import (
    ComposeSpec,
    EvaluateSpec,
    ExportSpec,
    JobSpec,
    MergeSpec,
    Parent,
    QuantizeSpec,
    ReproduceSpec,
    TrainSpec,
)
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

if TYPE_CHECKING:
    from finch_hub.plugins.descriptors import Preset

# Fields with an option of their own. Others are set with `--set`.
_OPTIONS = frozenset({
    "alpha", "batch_size", "dropout", "epochs", "learning_rate", "max_bad_rows", "max_steps", "patience", "rank",
    "seed",
})  # fmt: skip
_SHORT_NAMES = ("all-linear", "attention", "mlp")


class _OnlyInPython(Exception):
    """The command line has no words for a value."""


def write_command(spec: JobSpec, preset: Preset | None = None) -> str | None:
    """Return the command that submits a job again, None if the command line has no words for a value of it.

    Data is named by its digest, so the same examples are trained on and held out.

    Args:
        preset: preset of a training, if it is known here. Without it, the command has all of its values.
    """
    try:
        if isinstance(spec, TrainSpec):
            words = list(_train(spec, preset))
        elif isinstance(spec, ComposeSpec):
            words = list(_compose(spec))
        elif isinstance(spec, MergeSpec):
            replace = ["--replace"] if spec.replace else []
            words = ["merge", *_name_parents(spec.parents), "--out", spec.out, *replace, *_weigh(spec.parents)]
        elif isinstance(spec, QuantizeSpec):
            words = ["quantize", spec.adapter, *_options(_changes(spec, QuantizeSpec, "scheme", "group", "tolerance"))]
        elif isinstance(spec, ExportSpec):
            words = list(_export(spec))
        elif isinstance(spec, EvaluateSpec):
            words = list(_evaluate(spec))
        elif isinstance(spec, ReproduceSpec):
            words = ["adapters", "reproduce", spec.adapter]
        else:
            return None
    except _OnlyInPython:
        return None
    return shlex.join(["finch-hub", *words])


def _train(spec: TrainSpec, preset: Preset | None) -> Iterator[str]:
    yield from ("train", spec.train, "--adapter", spec.adapter)
    if spec.start is not None:
        yield from ("--from", spec.start)
    else:
        yield from ("--base", spec.base.source)
        yield from ("--revision", spec.base.revision) if spec.base.revision is not None else ()
    if preset is not None:
        yield from ("--preset", preset.name)
    yield from ("--validation", spec.validation or f"{spec.training.validation:g}")
    if spec.system is not None and (preset is None or spec.system != preset.system or spec.start is not None):
        yield from ("--system", spec.system)
    lora, training = (preset.lora, preset.training) if preset is not None else (LoRAConfig(), TrainingConfig())
    shape = {"dropout": spec.lora.dropout} if spec.start is not None else _differences(spec.lora, lora)
    changes = {**shape, **_differences(spec.training, training)}
    changes.pop("validation", None)  # it is given as data, or as the share above
    for name, value in changes.items():
        if name == "target_modules":
            yield from ("--target-modules", _name_modules(value))
        elif name == "strict":
            if not value:
                raise _OnlyInPython(name)
            yield "--strict"
        elif name in _OPTIONS:
            yield from _options({name: value})
        else:
            yield from ("--set", _write_setting(name, value))


def _compose(spec: ComposeSpec) -> Iterator[str]:
    yield from ("compose", *_name_parents(spec.parents), "--adapter", spec.adapter, *_weigh(spec.parents))
    names = ("strategy", "resolver", "scale", "rank", "evaluations", "min_retention", "seed")
    yield from _options(_changes(spec, ComposeSpec, *names))
    for option, settings in (
        ("--parameter", spec.parameters), ("--resolver-parameter", spec.resolver_parameters),
    ):  # fmt: skip
        yield from _set(option, settings)


def _export(spec: ExportSpec) -> Iterator[str]:
    yield from ("export", spec.adapter, "--out", spec.out, "--format", spec.format)
    yield from ("--replace",) if spec.replaces else ()
    yield from _set("--parameter", {name: value for name, value in spec.parameters.items() if name != "replace"})


def _evaluate(spec: EvaluateSpec) -> Iterator[str]:
    yield from ("eval", spec.dataset)
    for adapter in spec.adapters:
        yield from ("--adapter", adapter)
    if not spec.adapters:
        if spec.base.revision is not None:
            raise _OnlyInPython("revision")
        yield from ("--base", spec.base.source)
    yield from ("--evaluator", spec.evaluator, *_set("--parameter", spec.parameters))
    yield from ("--system", spec.system) if spec.system is not None else ()


def _differences(config: LoRAConfig | TrainingConfig, default: LoRAConfig | TrainingConfig) -> dict[str, Any]:
    names = type(config).model_fields
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(default, name)}


def _changes(spec: JobSpec, kind: type[JobSpec], *names: str) -> dict[str, Any]:
    """Return the fields whose values are not those of a command without options."""
    fields = kind.model_fields
    return {name: getattr(spec, name) for name in names if getattr(spec, name) != fields[name].default}


def _options(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if value is None:
            raise _OnlyInPython(name)
        yield from (f"--{name.replace('_', '-')}", value if isinstance(value, str) else repr(value))


def _set(option: str, settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if not name or "=" in name:
            raise _OnlyInPython(name)
        yield from (option, _write_setting(name, value))


def _write_setting(name: str, value: object) -> str:
    """Return NAME=VALUE. A text is written as it is unless it would be read as JSON."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return f"{name}={value}"
    return f"{name}={json.dumps(value, ensure_ascii=False)}"


def _name_modules(modules: tuple[str, ...] | str) -> str:
    is_plain = not isinstance(modules, str) and not any("," in name or name != name.strip() for name in modules)
    if is_plain and not (len(modules) == 1 and modules[0] in _SHORT_NAMES):
        return ",".join(modules)
    if isinstance(modules, str) and modules in _SHORT_NAMES:
        return modules
    raise _OnlyInPython("target_modules")  # a regular expression, or names that the option would divide


def _name_parents(parents: Iterable[Parent]) -> list[str]:
    return [parent.adapter for parent in parents]


def _weigh(parents: Iterable[Parent]) -> list[str]:
    weights = [parent.weight for parent in parents]
    return ["--weights", ",".join(map(repr, weights))] if any(weight != 1 for weight in weights) else []
