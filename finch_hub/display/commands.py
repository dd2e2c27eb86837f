"""Commands and settings files that submit a job again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from decimal import Decimal
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
_PAIRS = {"parameters": "parameter", "resolver_parameters": "resolver-parameter"}
_REPEATED = {"adapters": "adapter", "labels": "label"}


class _OnlyInPython(Exception):
    """The command line has no words for a value."""


def name_settings(spec: JobSpec, preset: Preset | None = None, *, job: Job | None = None) -> dict[str, Any]:
    """Return the settings with which a settings file submits the job again, without None.

    They have the job's data by its hash. What decides only when the job runs is left out: its idempotency key, and the
    jobs that it waited for. With the job come its requirements and its priority, without a memory that a submission
    estimates anew.

    Args:
        preset: preset of a training, if it is known. It is left out if it has a value that the file cannot take back.
        job: the job, for its requirements and its priority.
    """
    named = _name_job(spec, preset, job)
    defaults = _find_defaults(spec, preset) if preset is not None else {}
    if any(default is not None and named.get(name) is None for name, default in defaults.items()) or (
        defaults.get("strict") and not named["strict"]
    ):
        named["preset"] = None
    return {name: value for name, value in named.items() if value is not None}


def _name_job(spec: JobSpec, preset: Preset | None, job: Job | None) -> dict[str, Any]:
    from finch_hub.specs.jobs import ComposeSpec, Requirements, TrainSpec  # late, so that `--help` loads no pydantic

    named = {"kind": spec.kind, **_name_spec(spec)}
    if preset is None:
        named.pop("preset", None)
    if job is not None and isinstance(spec, (TrainSpec, ComposeSpec)):
        left_out = {"is_memory_estimated"} | (set() if isinstance(spec, TrainSpec) else {"together"})
        if job.requirements.is_memory_estimated:
            left_out.add("memory_bytes")
        default = Requirements().model_dump(mode="json")
        required = job.requirements.model_dump(mode="json", exclude=left_out)
        named |= {name: value for name, value in required.items() if value != default[name]}
    if job is not None and isinstance(spec, TrainSpec) and job.priority:
        named["priority"] = job.priority
    return named


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
        fields["parameters"].pop("replace", None)
        fields["replace"] = spec.replaces
    if isinstance(spec, QuantizeSpec) and spec.group is None:
        fields["group"] = 0
    if isinstance(spec, EvaluateSpec):
        fields = {"data": fields.pop("dataset"), **fields}
        base = fields.pop("base")
        if not spec.adapters:
            fields |= {"base": base["source"], "revision": base["revision"]}
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
        return {"strict": False}
    lora, training = (LoRAConfig(), TrainingConfig()) if preset is None else (preset.lora, preset.training)
    settings = training.model_dump(mode="json")
    if spec.start is None:
        settings |= lora.model_dump(mode="json")
    if preset is not None and (spec.start is None or spec.system is None):  # a version's prompt comes before a preset's
        settings["system"] = preset.system
    return settings


def write_command(spec: JobSpec, preset: Preset | None = None, *, job: Job | None = None) -> str | None:
    """Return the command with which a shell submits a job again, None if no option can say a value of it.

    What is a default is left out, and so is what `name_settings` leaves out.

    Args:
        preset: preset of a training, if it is known. Without it, the command has all settings and no preset.
        job: the job, for its requirements and its priority.
    """
    if spec.kind not in WORDS:
        return None
    settings, leave_out, kind = _name_job(spec, preset, job), _find_defaults(spec, preset), spec.kind
    options: list[str] = []
    positional: list[str] = []
    try:
        for name, value in settings.items():
            if name in _POSITIONAL[kind]:
                positional += value if isinstance(value, list) else [value]
            elif name != "kind" and leave_out.get(name) != value:
                options += _write_option(name, value)
    except _OnlyInPython:
        return None
    return " ".join(map(quote, [PROGRAM, *WORDS[kind], *positional, *options]))


def _write_option(name: str, value: Any) -> Iterator[str]:
    option = f"--{name.replace('_', '-')}"
    if name in WITHOUT_OPTION:
        yield from ("--set", _write_setting(name, value))
    elif value is None or value is False:
        raise _OnlyInPython
    elif name in _PAIRS:
        for key, entry in value.items():
            if not key or "=" in key:
                raise _OnlyInPython
            yield from (f"--{_PAIRS[name]}", _write_setting(key, entry))
    elif name == "target_modules":
        yield from (option, _join_modules(value))
    elif name == "weights":
        yield from (option, ",".join(map(str, value)))
    elif name in _REPEATED:
        for entry in value:
            yield from (f"--{_REPEATED[name]}", entry)
    elif name == "time_limit":
        yield from (option, format(Decimal(str(value)), "f"))  # the option takes no exponent
    elif value is True:
        yield option
    else:
        yield from (option, str(value))


def _write_setting(name: str, value: Any) -> str:
    """Return NAME=VALUE. A text is written as it is unless it would be read as JSON."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return f"{name}={value}"
    return f"{name}={json.dumps(value, ensure_ascii=False)}"


def _join_modules(modules: list[str] | str) -> str:
    """Return the text that `--target-modules` reads as these modules."""
    from finch_hub.specs.lora import parse_target_modules

    text = modules if isinstance(modules, str) else ",".join(modules)
    read = parse_target_modules(text)
    if (read if isinstance(read, str) else list(read)) != modules:
        raise _OnlyInPython
    return text


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
