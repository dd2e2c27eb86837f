"""Choice of the dtype in which a device computes fastest: by its instructions, then by measurements."""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from pathlib import Path
from typing import Literal, get_args

import pydantic
import torch

from finch_hub import errors
from finch_hub.engine.bases.json_cache import JsonCache
from finch_hub.engine.machine import processor
from finch_hub.specs.value import Value

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"]
_CACHE_FILE = "precision.json"
# Projection of a small model in a small batch: 512 tokens, 1024 by 1024.
_ROWS, _WIDTH, _ROUNDS = 512, 1024, 5
# A moment's load slows one measurement, not three with pauses between them.
_MEASUREMENTS, _PAUSE_SECONDS = 3, 0.3
_LEAST_GAIN = 1.2  # of bfloat16; below it, float32 is about as fast, and more exact
_VALID_SECONDS, _DOUBTFUL_SECONDS = 30 * 86_400.0, 3_600.0
_LEAST_SHARE = 1 / 3  # of the measured speed; trainings of real models reach more than half


def pick_dtype(dtype: Dtype, device: torch.device, *, cache: Path | None) -> torch.dtype:
    """Return the dtype of the base's floating-point weights on this device.

    "auto" is bfloat16 on CUDA if the device supports it, else float16. On a CPU it is bfloat16 if the CPU has
    instructions for it and measurements show that they are faster, else float32. "int8" and "nf4" give the dtype of the
    weights that are not quantized.

    Raises:
        InvalidSpec: unknown dtype, float16 on a CPU, or a quantized base without CUDA and bitsandbytes.
    """
    problem: errors.Problem | None = None
    if dtype not in get_args(Dtype):
        problem = errors.Problem(what=f"{dtype!r} is not a dtype", fix=f"use one of {', '.join(get_args(Dtype))}")
    elif dtype in ("int8", "nf4") and device.type != "cuda":
        problem = errors.Problem(what=f"{dtype} needs a CUDA device", fix="use auto")
    elif dtype in ("int8", "nf4") and importlib.util.find_spec("bitsandbytes") is None:
        problem = errors.Problem(what=f"{dtype} needs bitsandbytes", fix="pip install 'finch-hub[cuda]'")
    elif dtype == "float16" and device.type == "cpu":
        problem = errors.Problem(what="float16 overflows and is slow on a CPU", fix="use auto, bfloat16 or float32")
    if problem:
        raise errors.InvalidSpec(problem, subject="dtype")
    if dtype not in ("auto", "int8", "nf4"):
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        return torch.bfloat16 if is_bfloat16_faster(cache=cache) else torch.float32
    return torch.float32


def is_bfloat16_faster(*, cache: Path | None) -> bool:
    """Return whether this CPU multiplies bfloat16 matrices faster than float32 ones.

    A CPU without bfloat16 instructions does not, so nothing is measured. For others, the cache keeps the speeds for a
    month, under the conditions that they depend on. It keeps them for an hour if the measurements contradict each
    other, or if a training was far slower than they promise.
    """
    if not processor.has_bfloat16():
        return False
    speeds = _read_speeds(cache)
    if speeds is None or speeds.is_outdated:
        speeds = _measure_speeds()
        JsonCache(cache, _CACHE_FILE).put(_conditions(), speeds.model_dump())
    return statistics.median(speeds.gains) > _LEAST_GAIN


def doubt_if_slow(operations_per_second: float, *, cache: Path | None) -> None:
    """Let the dtypes be measured again soon if a training was far slower than their speeds promise.

    Args:
        operations_per_second: multiplications and additions of the training's matrix products.
    """
    speeds = _read_speeds(cache)
    if speeds is not None and operations_per_second < _LEAST_SHARE * speeds.operations_per_second:
        JsonCache(cache, _CACHE_FILE).put(_conditions(), speeds.evolve(is_doubtful=True).model_dump())


class _Speeds(Value):
    """Measured speeds of matrix products.

    Attributes:
        measured_at: seconds since the epoch.
        gains: speed of bfloat16 divided by that of float32, for each measurement.
        operations_per_second: highest measured speed of the faster dtype.
        is_doubtful: whether a training was far slower.
    """

    measured_at: float
    gains: tuple[float, ...] = pydantic.Field(min_length=1)
    operations_per_second: float
    is_doubtful: bool = False

    @property
    def is_outdated(self) -> bool:
        """Whether the dtypes must be measured again."""
        is_contradictory = len({gain > _LEAST_GAIN for gain in self.gains}) > 1
        valid_seconds = _DOUBTFUL_SECONDS if is_contradictory or self.is_doubtful else _VALID_SECONDS
        return not 0 <= time.time() - self.measured_at < valid_seconds  # the clock may have been set back


def _read_speeds(cache: Path | None) -> _Speeds | None:
    try:
        return _Speeds.of(JsonCache(cache, _CACHE_FILE).get(_conditions()))
    except errors.InvalidSpec:  # nothing is stored, or another version wrote it
        return None


def _conditions() -> str:
    limits = [f"{name}={os.environ[name]}" for name in processor.INSTRUCTION_LIMITS if name in os.environ]
    instructions = torch.backends.cpu.get_cpu_capability()
    threads = f"{torch.get_num_threads()} threads"
    return ", ".join((processor.find_model(), instructions, *limits, threads, f"torch {torch.__version__}"))


def _measure_speeds() -> _Speeds:
    gains, fastest = [], float("inf")
    for number in range(_MEASUREMENTS):
        if number > 0:
            time.sleep(_PAUSE_SECONDS)
        bfloat16_seconds, float32_seconds = _measure_seconds(torch.bfloat16, torch.float32)
        gains.append(float32_seconds / bfloat16_seconds)
        fastest = min(fastest, bfloat16_seconds, float32_seconds)
    operations = 2 * _ROWS * _WIDTH**2
    return _Speeds(measured_at=time.time(), gains=tuple(gains), operations_per_second=operations / fastest)


def _measure_seconds(*dtypes: torch.dtype) -> list[float]:
    """Return the least time of several matrix products for each dtype.

    The dtypes take turns, because other processes then slow all of them. The least time is slowed the least.
    """
    operands = [(torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_WIDTH, _WIDTH, dtype=dtype)) for dtype in dtypes]
    best = [float("inf")] * len(dtypes)
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for index, (x, w) in enumerate(operands):
                begin = time.perf_counter()
                torch.nn.functional.linear(x, w)
                best[index] = min(best[index], time.perf_counter() - begin)
    return best
