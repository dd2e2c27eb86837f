"""Checks of an adapter's config and header, which the gate and the loader of the engine share."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from finch_hub import errors
from finch_hub.artifacts import config_cleaning, tensor_checks, tensor_names
from finch_hub.formats import quantized
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.lora_modules import LoRAModule
from finch_hub.formats.peft_names import CONFIG, CONFIG_KEY, WEIGHTS
from finch_hub.formats.safetensors_file import SafetensorsFile
from finch_hub.formats.safetensors_header import TensorInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class GatePolicy:
    """Limits of the gate.

    Attributes:
        max_bytes: of all files together, unpacked.
        max_tensors: in one file.
        max_update_norm: of ``scale * ‖B‖ * ‖A‖`` in one module, an upper bound of the update's Frobenius norm. An
            adapter above it is stored, but quarantined. Rank-16 adapters of the demo's data reach 3.
    """

    max_bytes: int = 8 * 2**30
    max_tensors: int = 65_536
    max_update_norm: float = 1e4


DEFAULT_POLICY = GatePolicy()


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedAdapter:
    """An adapter whose config and header were checked.

    Attributes:
        config: cleaned config.
        is_pinned: whether the modules of the config became those of the file.
        ignored_fields: fields of the source's config that had a value and are not in the cleaned one.
        scheme: scheme of a quantized adapter.
        names: new name of each tensor by its name in the file, without tensors that are left out.
        tensors: entries of the header by the new names.
        modules: adapted modules by their path in the base.
        notes: sentences that say what else was changed or left out.
        problems: reasons to refuse the adapter, to which the caller adds those of its values.
    """

    config: dict[str, Any]
    is_pinned: bool
    ignored_fields: Mapping[str, Any]
    scheme: quantized.Scheme | None
    names: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]
    modules: Mapping[str, LoRAModule]
    notes: list[str]
    problems: list[errors.Problem]


def check_adapter(
    file: SafetensorsFile,
    config_text: bytes,
    *,
    base: BaseLayout | None = None,
    policy: GatePolicy = DEFAULT_POLICY,
    shown: str,
) -> CheckedAdapter:
    """Check the config and the header of an adapter. The values of its tensors are not read.

    Args:
        config_text: content of its config.
        base: modules of the base, whose names the tensors get; None keeps those of the file.
        shown: name of the adapter in messages.

    Raises:
        RefusedArtifact: with the problems of the config, or of the limits.
    """
    config, ignored_fields, is_pinned = config_cleaning.clean_config(config_text)
    problems: list[errors.Problem] = []
    if (size := os.fstat(file.fd).st_size) > policy.max_bytes:
        problems.append(errors.Problem(what=f"has {size} bytes, more than {policy.max_bytes}"))
    if len(file.tensors) > policy.max_tensors:
        problems.append(errors.Problem(what=f"has {len(file.tensors)} tensors, more than {policy.max_tensors}"))
    if problems:
        raise errors.RefusedArtifact(problems, subject=shown)
    try:
        scheme = quantized.Scheme.of(file.metadata)
    except errors.Incompatible as error:
        raise errors.RefusedArtifact(error.problems, subject=shown) from None
    named = tensor_names.name_tensors(file, config, is_pinned=is_pinned, base=base)
    if base is not None:
        named = tensor_names.drop_copies(named, file, config, base)
    tensors = {new: file.tensors[old] for old, new in named.names.items()}
    notes = [*named.notes, *tensor_names.drop_announcements(config, tensors)]
    modules, problems = tensor_checks.check_tensors(tensors, config, scheme)
    return CheckedAdapter(
        config=config,
        is_pinned=is_pinned,
        ignored_fields=ignored_fields,
        scheme=scheme,
        names=named.names,
        tensors=tensors,
        modules=modules,
        notes=notes,
        problems=[*named.problems, *problems],
    )


def read_config_in_metadata(metadata: Mapping[str, str], *, shown: str) -> bytes:
    """Return the config of an adapter that is one file.

    Raises:
        RefusedArtifact: the metadata have none.
    """
    if (text := metadata.get(CONFIG_KEY)) is None:
        what = f"has no config: its metadata have no {CONFIG_KEY!r}"
        fix = f"give a folder with {CONFIG} and the weights as {WEIGHTS}"
        raise errors.RefusedArtifact(what, fix=fix, subject=shown)
    return text.encode()


def find_large_updates(
    modules: Mapping[str, LoRAModule],
    norms: Mapping[str, float],
    tensors: Mapping[str, TensorInfo],
    scheme: quantized.Scheme | None,
    policy: GatePolicy = DEFAULT_POLICY,
) -> Iterator[str]:
    """Yield a sentence for each module whose update may exceed the limit.

    Args:
        norms: Frobenius norm of each floating-point tensor.
    """
    for path, module in modules.items():
        norm = math.prod((module.scale, *_bound_factors(module, norms, tensors, scheme)))
        if not norm <= policy.max_update_norm:
            yield f"{path}: the update's norm may reach {norm:.3g}, above the limit of {policy.max_update_norm:g}"


def find_overflows(
    modules: Mapping[str, LoRAModule],
    norms: Mapping[str, float],
    tensors: Mapping[str, TensorInfo],
    scheme: quantized.Scheme | None,
) -> list[errors.Problem]:
    """Return the problem of each module whose update, or product of one factor with inputs, float16 cannot hold.

    Args:
        norms: Frobenius norm of each floating-point tensor. An entry of a product is at most that of its factors.
    """
    problems = []
    for path, module in modules.items():
        factors = _bound_factors(module, norms, tensors, scheme)
        largest = max(*factors, math.prod((module.scale, *factors)))
        if not largest <= tensor_checks.MAX_VALUE:
            what = f"its factors or their product may reach {largest:.3g}, above {tensor_checks.MAX_VALUE:,.0f}"
            fix = "train it with a lower learning rate"
            problems.append(errors.Problem(where=path, what=what, fix=fix))
    return problems


def _bound_factors(
    module: LoRAModule, norms: Mapping[str, float], tensors: Mapping[str, TensorInfo], scheme: quantized.Scheme | None
) -> list[float]:
    """Return upper bounds of the norms of A and B."""
    return [
        scheme.bound_norm(name, tensors[name], norms[name + quantized.SCALE])
        if scheme is not None and name not in norms
        else norms[name]
        for name in (module.a, module.b)
    ]
