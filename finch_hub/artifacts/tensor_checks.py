"""Checks of an untrusted adapter's tensors: names, shapes and dtypes against the config, and values."""

from __future__ import annotations

import collections
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from finch_hub import errors
from finch_hub.artifacts.config_cleaning import MODULE_FIELDS, count_repeats, count_ways
from finch_hub.formats import lora_modules, quantized
from finch_hub.formats.float_conversion import to_float32
from finch_hub.formats.lora_modules import LoRAModule
from finch_hub.formats.peft_names import BASE_LAYER, CONFIG, PREFIX, split_name
from finch_hub.formats.safetensors_header import FLOATS, NUMPY_CODES, TensorInfo

# More would take many seconds: matches, and steps of a regular expression in them.
_MAX_PATTERN_MATCHES, _MAX_PATTERN_STEPS = 5_000_000, 1e8
MAX_VALUE = 65_504.0
"""Largest number of float16, the dtype of the smallest range that a base can have."""
_BLOCK_BYTES = 2**20  # a multiple of every item's size


class TensorStatistics(NamedTuple):
    """Number of NaN and infinite entries, and the Frobenius norm of the others.

    Attributes:
        largest: largest magnitude; 0 if the norm says that it is not above `MAX_VALUE`.
    """

    nonfinite: int
    norm: float
    largest: float


def check_tensors(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], scheme: quantized.Scheme | None
) -> tuple[dict[str, LoRAModule], list[errors.Problem]]:
    """Sort the tensors into modules and return the modules and all problems.

    Problems are an A without its B, a rank other than the config's, and a shape or dtype that no factor has. Another is
    a tensor that is neither LoRA's nor of a module that the config trains.
    """
    shapes = {name: info.shape for name, info in tensors.items()}
    problems: list[errors.Problem] = []
    if scheme is not None:
        shapes = scheme.logical_shapes(tensors)
        problems += scheme.check_scales(tensors)
    found = lora_modules.find_modules(shapes, config)
    for name in shapes:
        dtype, is_factor = tensors[name].dtype, split_name(name)[1] is not None
        if not name.startswith(PREFIX):
            problems.append(_problem(name, f"does not begin with {PREFIX}"))
        elif not is_factor and not _is_expected(name, config):
            problems.append(_unexpected(name))
        elif dtype not in FLOATS and not (is_factor and name + quantized.SCALE in tensors and scheme is not None):
            problems.append(_problem(name, f"has the dtype {dtype}, which is not a floating-point type"))
    problems += found.problems
    if not found.modules and not problems:
        problems.append(errors.Problem(what="holds no LoRA factors"))
    for module in found.modules.values():
        problems += _check_vectors(module, shapes, config)
    return found.modules, problems


def check_cost_of_patterns(config: Mapping[str, Any], paths: Collection[str], num_tensors: int = 0) -> None:
    """Check that a config's patterns can be matched with these modules in reasonable time.

    Args:
        paths: of the adapted modules.
        num_tensors: number of all tensors, whose names are compared with modules that are stored whole.

    Raises:
        RefusedArtifact: they are too many, or the names of the modules are too long for them.
    """
    lengths = collections.Counter(map(len, paths))
    for field in ("rank_pattern", "alpha_pattern", "layers_pattern", "modules_to_save", *MODULE_FIELDS[:2]):
        patterns = config.get(field) or ()
        if field in MODULE_FIELDS:  # a list of them is compared by names
            patterns = [patterns] if isinstance(patterns, str) else []
        num_names = max(len(paths), num_tensors if field == "modules_to_save" else 0)
        is_costly = len(patterns) * num_names > _MAX_PATTERN_MATCHES
        if is_costly or _count_steps(patterns, lengths, field not in MODULE_FIELDS) > _MAX_PATTERN_STEPS:
            what = "has too many patterns, or too long names of modules for them"
            raise errors.RefusedArtifact(what, where=field, subject=CONFIG)


def _count_steps(patterns: Iterable[str], lengths: Mapping[int, int], is_for_ends: bool) -> float:
    """Return a bound of the steps that matches take. PEFT puts ".*" before a pattern that is for the ends of paths."""
    costs = ((count_repeats(pattern) + is_for_ends, count_ways(pattern)) for pattern in patterns)
    steps = 0.0
    for (count, ways), times in collections.Counter(costs).items():
        steps += (
            times * ways * sum(number * length**count for length, number in lengths.items()) / math.factorial(count)
        )
    return steps


def scan_tensor(path: Path, info: TensorInfo) -> TensorStatistics:
    """Read a floating-point tensor block by block and return its statistics."""
    nonfinite, squares, largest = 0, 0.0, 0.0
    with path.open("rb") as stream:
        for block in read_blocks(stream, info):
            stored = np.frombuffer(block, NUMPY_CODES[info.dtype])
            values = to_float32(stored, "BF16") if info.dtype == "BF16" else stored
            finite = np.isfinite(values)
            nonfinite += values.size - int(np.count_nonzero(finite))
            # An overflowing norm is infinite, which exceeds every policy. NumPy warns when it converts signaling NaNs.
            with np.errstate(over="ignore", invalid="ignore"):
                of_block = float(np.sum(np.square(values.astype(np.float64)), where=finite))
            squares += of_block
            # No entry is larger than the norm, so most blocks need no second look.
            if of_block > MAX_VALUE**2:
                largest = max(largest, float(np.max(np.abs(values[finite]))))
    return TensorStatistics(nonfinite, math.sqrt(squares), largest)


def find_nonfinite(name: str, count: int) -> list[errors.Problem]:
    """Return the problem of a tensor with this many NaN and infinite entries, and none for 0."""
    return [errors.Problem(where=name, what=f"has {count} entries that are NaN or infinite")] if count else []


def find_too_large(name: str, largest: float) -> list[errors.Problem]:
    """Return the problem of a tensor whose largest magnitude is one that float16 does not have, and none otherwise."""
    if largest <= MAX_VALUE:
        return []
    what = f"has values up to {largest:.3g}, above {MAX_VALUE:,.0f}, so that a base in float16 would give no numbers"
    return [errors.Problem(where=name, what=what, fix="train it with a lower learning rate")]


def read_blocks(stream: BinaryIO, info: TensorInfo) -> Iterator[bytes]:
    """Yield a tensor's bytes in blocks of a megabyte."""
    stream.seek(info.start)
    left = info.nbytes
    while left and (block := stream.read(min(left, _BLOCK_BYTES))):
        left -= len(block)
        yield block


def _check_vectors(
    module: LoRAModule, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]
) -> list[errors.Problem]:
    """Check the bias and the magnitudes of a module against the config."""
    problems: list[errors.Problem] = []
    for name, is_allowed in ((module.bias, config["lora_bias"]), (module.magnitude, config["use_dora"])):
        if name is None:
            continue
        if not is_allowed:
            problems.append(_problem(name, "is in the file, but the config does not enable it"))
        elif math.prod(shapes[name]) != module.outputs:
            problems.append(_problem(name, f"has the shape {list(shapes[name])} for {module.outputs} outputs"))
    if config["use_dora"] and module.magnitude is None:
        problems.append(_problem(module.path, "has no lora_magnitude_vector, but the config says use_dora"))
    return problems


def _is_expected(name: str, config: Mapping[str, Any]) -> bool:
    """Tell whether the config says that a tensor which is not LoRA's was trained whole."""
    path = f".{name.removeprefix(PREFIX)}"
    if path.endswith(f"{BASE_LAYER}weight"):
        return False
    saved = any(f".{module}." in path for module in config["modules_to_save"] or ())
    return saved or (path.endswith(".bias") and config["bias"] != "none")


def _unexpected(name: str) -> errors.Problem:
    if not name.endswith(f"{BASE_LAYER}weight"):
        return _problem(name, "is not a LoRA tensor and not of a module in modules_to_save")
    fix = "save it with save_embedding_layers=False, or train the embedding through modules_to_save"
    return errors.Problem(where=name, what="is a copy of the base's own weights", fix=fix)


def _problem(where: str, what: str) -> errors.Problem:
    return errors.Problem(where=where, what=what)
