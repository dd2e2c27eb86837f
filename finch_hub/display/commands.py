"""Commands and settings files that submit a job again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finch_hub.plugins.descriptors import Preset
    from finch_hub.specs.jobs import Job, JobSpec, TrainSpec

PROGRAM = "finch-hub"
WORDS: dict[str, tuple[str, ...]] = {
    "train": ("train",),
    "compose": ("compose",),
    "merge": ("merge",),
    "quantize": ("quantize",),
    "export": ("export",),
    "evaluate": ("eval",),
    "reproduce": ("adapters", "reproduce"),
}
"""Words of the command that submits a job of a kind."""
WITHOUT_OPTION = frozenset({
    "alpha_pattern", "batch_tokens", "checkpoint_every", "dtype", "evaluate_every", "exclude_modules",
    "gradient_accumulation", "gradient_checkpointing", "init", "keep_checkpoints", "layers_to_transform",
    "loraplus_ratio", "max_grad_norm", "max_length", "min_improvement", "packing", "rank_budget", "rank_pattern",
    "rank_tolerance", "samples", "schedule", "share_prefix", "threads", "use_dora", "use_rslora", "warmup_ratio",
    "warmup_steps", "weight_decay",
})  # fmt: skip
"""Settings of a training that have no option of their own, so that `--set` gives them."""
_POSITIONAL: dict[str, tuple[str, ...]] = {
    "train": ("data",),
    "compose": ("adapters",),
    "merge": ("adapters",),
    "quantize": ("adapter",),
    "export": ("adapter",),
    "evaluate": ("data",),
    "reproduce": ("adapter",),
}
_JOINED = frozenset({"weights", "target_modules"})  # options that take a list as one word
_PAIRS = {"parameters": "parameter", "resolver_parameters": "resolver-parameter"}
_REPEATED = {"adapters": "adapter", "labels": "label"}


def name_settings(spec: JobSpec, job: Job | None = None) -> dict[str, Any]:
    """Return the keywords with which Python, a settings file or a command submits the job again, without None.

    They have the job's data by its hash. What decides only when the job runs is left out: its idempotency key, and the
    jobs that it waited for. With the job come its requirements and its priority.
    """
    from finch_hub.specs.jobs import ComposeSpec, Requirements, TrainSpec  # late, so that `--help` loads no pydantic

    named = {"kind": spec.kind, **_name_spec(spec)}
    if job is not None and isinstance(spec, (TrainSpec, ComposeSpec)):
        default = Requirements().model_dump(mode="json")
        required = job.requirements.model_dump(mode="json")
        named |= {name: value for name, value in required.items() if value != default[name]}
    if job is not None and isinstance(spec, TrainSpec) and job.priority:
        named["priority"] = job.priority
    return {name: value for name, value in named.items() if value is not None}


def _name_spec(spec: JobSpec) -> dict[str, Any]:
    from finch_hub.specs.jobs import ComposeSpec, EvaluateSpec, ExportSpec, MergeSpec, QuantizeSpec, TrainSpec

    if isinstance(spec, TrainSpec):
        return _name_training(spec)
    fields = spec.model_dump(mode="json", exclude={"kind", "place", "thinking"})
    if isinstance(spec, (ComposeSpec, MergeSpec)):
        parents = fields.pop("parents")
        fields = {"adapters": [parent["adapter"] for parent in parents], **fields}
        if any(parent["weight"] != 1 for parent in parents):
            fields["weights"] = [parent["weight"] for parent in parents]
    if isinstance(spec, ExportSpec):
        fields["replace"] = fields["parameters"].pop("replace", False)
    if isinstance(spec, QuantizeSpec) and spec.group is None:
        fields["group"] = 0
    if isinstance(spec, EvaluateSpec):
        fields = {"data": fields.pop("dataset"), **fields}
        base = fields.pop("base")
        if not spec.adapters:
            fields["base"] = base["source"]
    return fields


def _name_training(spec: TrainSpec) -> dict[str, Any]:
    lora = spec.lora.model_dump(mode="json")
    named: dict[str, Any] = {"data": spec.train, "adapter": spec.adapter}
    if spec.start is None:
        named |= {"base": spec.base.source, "revision": spec.base.revision}
    else:  # the version has its base and its shape
        named["start"], lora = spec.start, {"dropout": spec.lora.dropout}
    training = spec.training.model_dump(mode="json")
    share = training.pop("validation")
    named |= {"preset": spec.preset, "system": spec.system, "validation": spec.validation or share}
    return {**named, **lora, **training}


def write_settings(settings: Mapping[str, Any]) -> list[str]:
    """Return the lines of a settings file in TOML, which `--config` reads."""
    return [f"{name} = {_write_value(value)}" for name, value in settings.items()]


def _find_defaults(spec: JobSpec, preset: Preset | None) -> dict[str, Any]:
    """Return the settings that the command of a specification has by itself: those of its preset, if it is known."""
    from finch_hub.specs.jobs import TrainSpec
    from finch_hub.specs.lora import LoRAConfig
    from finch_hub.specs.training import TrainingConfig

    if not isinstance(spec, TrainSpec):
        fields = {name: field for name, field in type(spec).model_fields.items() if not field.is_required()}
        return {
            "replace": False,
            **{name: field.get_default(call_default_factory=True) for name, field in fields.items()},
        }
    if spec.preset is not None and preset is None:
        return {}
    lora, training = (LoRAConfig(), TrainingConfig()) if preset is None else (preset.lora, preset.training)
    shape = {} if spec.start is not None else lora.model_dump(mode="json")
    system = {} if preset is None else {"system": preset.system}
    return {**shape, **training.model_dump(mode="json"), **system}


def write_command(spec: JobSpec, preset: Preset | None = None, *, job: Job | None = None) -> str:
    """Return the command with which a shell submits a job again, without what is a default.

    Args:
        preset: preset of a training, whose settings are left out; None gives all settings of a training with a preset.
        job: the job, for its requirements and its priority.
    """
    settings, leave_out, kind = name_settings(spec, job), _find_defaults(spec, preset), spec.kind
    options, positional = [], []
    for name, value in settings.items():
        if name in _POSITIONAL[kind]:
            positional += list(map(str, value)) if isinstance(value, list) else [str(value)]
        elif name != "kind" and not (name in leave_out and leave_out[name] == value):
            options += list(_write_option(name, value))
    return " ".join(map(quote, [PROGRAM, *WORDS[kind], *positional, *options]))


def _write_option(name: str, value: Any) -> Iterator[str]:
    option = f"--{name.replace('_', '-')}"
    if name in WITHOUT_OPTION:
        yield from ("--set", f"{name}={json.dumps(value)}")
    elif name in _PAIRS:
        for key, entry in value.items():
            yield from (f"--{_PAIRS[name]}", f"{key}={json.dumps(entry)}")
    elif name in _JOINED:
        yield from (option, value if isinstance(value, str) else ",".join(map(str, value)))
    elif name in _REPEATED:
        for entry in value:
            yield from (f"--{_REPEATED[name]}", str(entry))
    elif value is True:
        yield option
    elif value is not False:
        yield from (option, str(value))


def quote(word: str) -> str:
    """Return a word as a shell reads it. Characters that cannot be seen are written as bash and zsh know them."""
    if word.isprintable():
        return shlex.quote(word)
    known = {"\n": r"\n", "\t": r"\t", "\r": r"\r", "\\": r"\\", "'": r"\'"}
    return "$'" + "".join(known.get(char, char if char.isprintable() else _escape(char)) for char in word) + "'"


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 2**16 else f"\\U{ord(char):08x}"


def _write_value(value: Any) -> str:
    if isinstance(value, str):
        return _write_string(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_write_value, value))}]"
    if isinstance(value, Mapping):
        entries = ", ".join(
            f"{_write_string(str(key))} = {_write_value(entry)}" for key, entry in value.items() if entry is not None
        )
        return f"{{ {entries} }}" if entries else "{}"
    return json.dumps(value)


def _write_string(text: str) -> str:
    known = {"\n": r"\n", "\t": r"\t", "\\": r"\\", '"': r"\""}
    return '"' + "".join(known.get(char, char if char.isprintable() else _escape(char)) for char in text) + '"'
