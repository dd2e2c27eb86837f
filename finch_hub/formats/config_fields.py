"""Fields of PEFT's `adapter_config.json`: which of them may be set, and which are refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from finch_hub import errors
from finch_hub.formats.peft_names import CONFIG

HARMLESS_INITS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Initializations that leave the base's weights alone; PiSSA, OLoRA, CorDA, LoftQ and others move a part of them."""
SUPPORTED = frozenset({
    "alpha_pattern", "base_model_name_or_path", "bias", "exclude_modules", "fan_in_fan_out", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_bias", "lora_dropout", "modules_to_save", "peft_type",
    "r", "rank_pattern", "revision", "target_modules", "task_type", "use_dora", "use_rslora",
})  # fmt: skip
"""Fields that readers use or check."""

# What every PEFT writes, and what its readers of the weights do not need. Nobody has to be told of it.
_USUAL = frozenset({"inference_mode", "peft_version", "qalora_group_size", "runtime_config"})
_USUAL_VALUES = {"megatron_core": "megatron.core"}
# Fields of other trainers and of older versions that only describe the training or the file. PEFT stores both of two
# tied modules, so that nobody has to know that they were trained as one.
_DESCRIPTIVE = frozenset({
    "author", "auto_mapping", "axolotl_version", "base_model_class", "batch_size", "comment", "created_at",
    "dataset", "datasets", "description", "dtype", "ensure_weight_tying", "epochs", "eva_config",
    "gradient_checkpointing", "language", "learning_rate", "library_name", "license", "load_in_4bit",
    "load_in_8bit", "lora_dtype", "lorap_emb_lr", "lorap_lr_ratio", "loraplus_lr_ratio", "lr", "lr_scheduler_type",
    "max_length", "max_seq_length", "merge_weights", "model_type", "name", "notes", "num_train_epochs", "optimizer",
    "parent_library", "pipeline_tag", "quantization_config", "random_state", "seed", "tags", "timestamp",
    "torch_dtype", "torch_version", "trainer", "transformers_version", "trl_version", "unsloth_version",
    "use_gradient_checkpointing", "warmup_ratio", "weight_decay",
})  # fmt: skip
_BY_PEFT = "convert it with PEFT (path_initial_model_for_weight_conversion) and import the result"
_BY_TRAINING = "train it without this field"
_BY_DELETION = "delete the field if the adapter works without it"
_ARITHMETIC = ("changes what the adapter computes in a way that is not supported", _BY_TRAINING)
_CODE = ("names code to run, which is never run", _BY_DELETION)
_FILES = ("names files to read, and belongs to a changed base", _BY_PEFT)
_VARIANTS = (
    "alora_invocation_tokens", "arrow_config", "enable_lora", "kasa_config", "layer_replication",
    "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
_REASONS = {
    **dict.fromkeys(_VARIANTS, _ARITHMETIC),
    **dict.fromkeys(("auto_map", "megatron_config", "megatron_core"), _CODE),
    **dict.fromkeys(("corda_config", "lora_ga_config"), _FILES),
    "loftq_config": ("belongs to a changed base", _BY_PEFT),
}
# Of an unknown field, only the name and the kind of value tell what it may be. These beginnings of words stand in the
# names of fields that change what an adapter computes, in all versions of PEFT and in other trainers.
_RISKY = re.compile(
    r"[a-z0-9]*[ld]ora|(?:r|mode|type|kind|method|variant|config)s?(?![a-z])"
    r"|(?:activ|adapt|alpha|arch|attention|beta|bias|block|cap(?![a-z])|clip|cod|decomp|diag|drop|embed|exec|expert|factor|freez|function"
    r"|fus|gamma|gat|head|init|inject|invo|layer|logit|low|magn|mask|matri|merg|mix|modul|multipl|norm|orthog|parameter"
    r"|pattern|pool|prefix|projection|prun|quant|rank|remote|replac|replic|residual|rot|rout|scal|shar|shift|sparse|spars"
    r"|svd|target|temperature|threshold|tie|token|weight)"
)
# A word of these says that a field describes the training or the file, whatever its value.
_DESCRIBING = re.compile(
    r"(?:accuracy|author|batch|checkpoint|citation|clearml|comet|commit|compan|contact|creat|cuda|data|date|device|epoch"
    r"|eval|experiment|finish|framework|git|gpu|hardware|homepage|host|id(?![a-z])|job|language|learning|licen[cs]e|log|loss|lr"
    r"|machine|metric|mlflow|neptune|note|optim|organi[sz]ation|owner|project|python|random|releas|repo|run|sav|schedul"
    r"|seed|sourc|step|swanlab|tag|task|team|tensorboard|time|title|train|updat|upload|url|user|uuid|version|wandb|warmup"
    r"|website)"
)


def find_unsupported(config: Mapping[str, Any]) -> Iterator[errors.Problem]:
    """Yield what makes a config more than LoRA with rsLoRA and DoRA, by name.

    A field without a value changes nothing, whatever its name. A field with a value must be known, or have a name that
    describes the training or the file. A text under a name that says nothing is a remark.
    """
    if config.get("peft_type") != "LORA":
        value = shorten(config["peft_type"]) if "peft_type" in config else "missing"
        fix = f"save the adapter with PEFT as LoRA; {CONFIG} of MLX and others is another format"
        yield errors.Problem(where="peft_type", what=f"is {value}, not 'LORA'", fix=fix)
    init = config.get("init_lora_weights")
    if init not in HARMLESS_INITS or (isinstance(init, int) and not isinstance(init, bool)):
        what = f"is {shorten(init)}, which changes the base's weights"
        yield errors.Problem(where="init_lora_weights", what=what, fix=_BY_PEFT)
    if config.get("lora_bias"):
        fix = "train it with lora_bias=False"
        yield errors.Problem(where="lora_bias", what="adds a bias to B, which is not supported", fix=fix)
    for field in ("layers_to_transform", "layers_pattern"):
        if isinstance(config.get("target_modules"), str) and not is_empty(config.get(field)):
            what = f"is {shorten(config[field])}, which PEFT does not read if target_modules is one text"
            yield errors.Problem(where=field, what=what, fix="list the names of the modules in target_modules")
    for field, value in sorted(config.items()):
        if field not in SUPPORTED and not is_empty(value) and not _is_harmless(field, value):
            if field in _REASONS:
                why, fix = _REASONS[field]
                yield errors.Problem(where=field, what=f"is {shorten(value)}, which {why}", fix=fix)
            else:
                what = "is unknown, and may change what the adapter computes"
                fix = "delete it if it only describes the training"
                yield errors.Problem(where=field[:60], what=what, fix=fix)


def find_ignored(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with a value that no reader uses, without those that every PEFT writes."""
    return {
        field: value
        for field, value in sorted(config.items())
        if field not in SUPPORTED | _USUAL and not is_empty(value) and _USUAL_VALUES.get(field) != value
    }


def is_empty(value: Any) -> bool:
    """Tell whether a field has no value: null, false, or a text, list or table without one."""
    if isinstance(value, dict):
        return all(map(is_empty, value.values()))
    return value is None or value is False or value in ("", [])


def shorten(value: Any) -> str:
    """Return a value as a short text for errors."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _is_harmless(field: str, value: Any) -> bool:
    if field in _USUAL | _DESCRIPTIVE or field.startswith("_") or _USUAL_VALUES.get(field) == value:
        return True
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", field).lower())
    if field in _REASONS or any(map(_RISKY.match, words)) or not any(words):
        return False
    return _is_text(value) or any(map(_DESCRIBING.match, words))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(entry, str) for entry in value))
