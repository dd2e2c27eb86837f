"""Which tensors of a file make up which LoRA module, and whether they fit together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finch_hub import errors
from finch_hub.formats import peft_config
from finch_hub.formats.safetensors_header import TensorInfo
from finch_hub.formats.tensor_scan import FLOATS

PREFIX = "base_model.model."
QUANTIZATION = "finch_quantization"
"""Metadata key of a file whose factors are stored as whole numbers with scales beside them."""
SCALE = ".scale"
_CODES = frozenset({"I8", "U8"})
_FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)(?:\.weight)?"
)
_A, _B = ("lora_A.weight", "lora_embedding_A"), ("lora_B.weight", "lora_embedding_B")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoRAModule:
    """One adapted module: the names of its factors, and ``B [out, rank] @ A [rank, in]``."""

    a: str
    b: str
    rank: int
    inputs: int
    outputs: int


def lora_modules(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], metadata: Mapping[str, str]
) -> tuple[dict[str, LoRAModule], list[errors.Problem]]:
    """Sort the tensors into modules by path, and say what is wrong with them.

    Wrong are: an A without its B, ranks other than the config's, shapes that are no factors, dtypes that are no
    factor's, and tensors that are neither of LoRA nor of a module that the config trains besides.
    """
    problems: list[errors.Problem] = []
    parts: dict[str, dict[str, str]] = {}
    quantized = QUANTIZATION in metadata
    group = _group(metadata, problems) if quantized else None
    for name, info in tensors.items():
        codes = name.removesuffix(SCALE)
        if quantized and codes != name and codes in tensors:
            problems += _scales(name, info, codes, tensors[codes], group)
            continue
        if not name.startswith(PREFIX):
            problems.append(_problem(name, f"does not begin with {PREFIX}"))
            continue
        match = _FACTOR.fullmatch(name, len(PREFIX))
        if match is None:
            problems += _besides(name, info, config)
            continue
        is_code = quantized and name + SCALE in tensors and info.dtype in _CODES
        if info.dtype not in FLOATS and not is_code:
            problems.append(_problem(name, f"has the dtype {info.dtype}; factors are floating-point numbers"))
        module, part = match["module"], match["part"]
        if part in parts.setdefault(module, {}):
            problems.append(_problem(name, "stands twice for one module"))
        parts[module][part] = name
    modules = {}
    for path, names in parts.items():
        made = _module(path, names, tensors, config, problems)
        if made is not None:
            modules[path] = made
    if not modules and not problems:
        problems.append(errors.Problem(what="holds no LoRA factors"))
    for path, rank in peft_config.expected_ranks(config, list(modules)).items():
        if modules[path].rank != rank:
            problems.append(_problem(path, f"has rank {modules[path].rank}, but the config says {rank}"))
        if not peft_config.targets(config, path):
            problems.append(_problem(path, "is not among the config's target_modules, so no reader would load it"))
    return modules, problems


def _module(
    path: str,
    names: Mapping[str, str],
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    problems: list[errors.Problem],
) -> LoRAModule | None:
    kinds = [(a, b) for a, b in zip(_A, _B, strict=True) if a in names or b in names]
    if len(kinds) != 1:
        problems.append(_problem(path, "has no pair of A and B of one kind"))
        return None
    (a, b), *_ = kinds
    missing = [part for part in (a, b) if part not in names]
    if missing:
        problems.append(_problem(path, f"has no {missing[0]}"))
        return None
    shape_a, shape_b = tensors[names[a]].shape, tensors[names[b]].shape
    if len(shape_a) != 2 or len(shape_b) != 2 or shape_a[0] != shape_b[1]:
        problems.append(_problem(path, f"A {list(shape_a)} and B {list(shape_b)} are no [rank, in] and [out, rank]"))
        return None
    # Two numbers of four bits share a byte along the longer side; an odd last one has half a byte to itself.
    packed_a, packed_b = (tensors[names[part]].dtype == "U8" for part in (a, b))
    outputs = shape_b[0] * (2 if packed_b else 1)
    for part, allowed in (("lora_B.bias", config["lora_bias"]), ("lora_magnitude_vector", config["use_dora"])):
        if part not in names:
            continue
        if not allowed:
            problems.append(_problem(names[part], "stands there, but the config does not turn it on"))
        elif tensors[names[part]].elements not in (outputs, outputs - packed_b):
            problems.append(_problem(names[part], f"has {tensors[names[part]].elements} entries for {outputs} outputs"))
    if config["use_dora"] and "lora_magnitude_vector" not in names:
        problems.append(_problem(path, "has no lora_magnitude_vector, though the config says use_dora"))
    inputs = shape_a[1] * (2 if packed_a else 1)
    return LoRAModule(a=names[a], b=names[b], rank=shape_a[0], inputs=inputs, outputs=outputs)


def _group(metadata: Mapping[str, str], problems: list[errors.Problem]) -> int | None:
    """Return how many numbers share a scale, None for a whole row."""
    try:
        scheme = json.loads(metadata[QUANTIZATION])
        version, bits, group = scheme["version"], scheme["scheme"], scheme["group"]
        if version == 1 and bits in ("int8", "int4") and (group is None or (type(group) is int and group > 0)):
            return group
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    problems.append(_problem(QUANTIZATION, f"{metadata[QUANTIZATION][:60]!r} is no scheme that this version reads"))
    return None


def _scales(name: str, info: TensorInfo, codes_name: str, codes: TensorInfo, group: int | None) -> list[errors.Problem]:
    """Check the scales of one quantised factor: one for each group along its longer side."""
    if codes.dtype not in _CODES or info.dtype not in FLOATS:
        return [_problem(name, f"scales {codes.dtype} by {info.dtype}; it must be I8 or U8 by floating-point numbers")]
    long_side = 0 if "lora_B" in codes_name or "lora_embedding_B" in codes_name else 1
    if len(codes.shape) != 2 or len(info.shape) != 2:
        return [_problem(name, "and what it scales must be matrices")]
    length = codes.shape[long_side] * (2 if codes.dtype == "U8" else 1)
    # Half a byte may be padding, so both lengths are right.
    counts = {-(-n // (group or n)) for n in (length, length - (codes.dtype == "U8")) if n}
    if info.shape[long_side] not in counts or info.shape[1 - long_side] != codes.shape[1 - long_side]:
        return [_problem(name, f"{list(info.shape)} does not fit {list(codes.shape)} in groups of {group or length}")]
    return []


def _besides(name: str, info: TensorInfo, config: Mapping[str, Any]) -> list[errors.Problem]:
    """Check a tensor that is no factor: it must belong to what the config says is trained whole."""
    path = f".{name.removeprefix(PREFIX)}"
    saved = any(f".{module}." in path for module in config["modules_to_save"] or ())
    bias = path.endswith(".bias") and config["bias"] != "none"
    if path.endswith(".base_layer.weight"):
        fix = "save it with save_embedding_layers=False, or train the embedding through modules_to_save"
        return [errors.Problem(where=name, what="is a copy of the base's own weights", fix=fix)]
    if not (saved or bias):
        return [_problem(name, "is no LoRA tensor, and stands in no modules_to_save")]
    if info.dtype not in FLOATS:
        return [_problem(name, f"has the dtype {info.dtype}; trained weights are floating-point numbers")]
    return []


def _problem(where: str, what: str) -> errors.Problem:
    return errors.Problem(where=where, what=what)
