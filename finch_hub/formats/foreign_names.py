"""Names of tensors as trainers and older versions of PEFT write them, and the names that PEFT writes today."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from finch_hub.formats.peft_names import PREFIX

# Wrappers around a model or its layers, which its parameters' names repeat: torch.compile, FSDP, checkpointing, DDP.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_OUTER = re.compile(r"^(?:module\.(?=base_model\.))?base_model\.model\.")
# The adapter's name within a tensor's name: PEFT has removed it since 0.3, raw state dicts have it.
_NAMED = (
    (re.compile(r"\.(lora_[AB])\.(?!weight$|bias$)[^.]+\.(weight|bias)$"), r".\1.\2"),
    (re.compile(r"\.(lora_embedding_[AB])\.[^.]+(?:\.weight)?$"), r".\1"),
    (re.compile(r"\.lora_magnitude_vector\.(?!weight$)[^.]+(\.weight)?$"), r".lora_magnitude_vector"),
    (re.compile(r"\.modules_to_save\.(?!weight$|bias$)[^.]+\.((?:.+\.)?(?:weight|bias))$"), r".\1"),
    (re.compile(r"\.modules_to_save\.(weight|bias)$"), r".\1"),
)
# Parts of a path that only tell in which larger model the layers lie.
_CONTAINERS = frozenset({"backbone", "base_model", "gpt_neox", "language_model", "model", "pretrained_model"})
_TEXT_CONTAINERS = frozenset({"text_model", "transformer"})


def canonical_name(name: str) -> str:
    """Return the name that PEFT writes today for a tensor: with its prefix, without wrappers and an adapter's name."""
    inner, before = name, ""
    while inner != before:
        before, inner = inner, _OUTER.sub("", _WRAPPERS.sub("", inner))
        for pattern, replacement in _NAMED:
            inner = pattern.sub(replacement, inner)
    return PREFIX + inner


def make_renaming(known: Iterable[str]) -> Callable[[str], str]:
    """Return a function that gives the name in a base for a path as another model around the same layers has it.

    The names may differ in the containers of the layers: ``layers.0.mlp`` of a model without its head, or
    ``model.language_model.layers.0.mlp`` of a model that also sees, are ``model.layers.0.mlp``.

    Args:
        known: paths of the base's modules, or names of its parameters. A path that fits none stays as it is.
    """
    exact = set(known)
    of_core: dict[tuple[str, ...], list[str]] = {}
    for path in exact:
        of_core.setdefault(_core(path), []).append(path)

    def rename(path: str) -> str:
        fits = of_core.get(_core(path), [])
        return fits[0] if path not in exact and len(fits) == 1 else path

    return rename


def describe_renaming(renamed: Mapping[str, str]) -> str:
    """Return one example of the names that differ, empty if none does."""
    return next((f"{old} is {new}" for old, new in sorted(renamed.items()) if old != new), "")


def _core(path: str) -> tuple[str, ...]:
    """Return the parts of a path without the containers at its beginning."""
    parts = path.split(".")
    start = 0
    while start < len(parts) - 1 and parts[start] in _CONTAINERS | _TEXT_CONTAINERS:
        start += 1
    return tuple(parts[start:])
