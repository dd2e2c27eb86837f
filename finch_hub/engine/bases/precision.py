"""Choice of the dtype in which a device computes fastest, by one measurement."""

from __future__ import annotations

import importlib.util
import platform
import time
from pathlib import Path
from typing import Literal, get_args

import torch

from finch_hub import errors
from finch_hub.engine.bases.json_cache import JsonCache

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"]
_CACHE_FILE = "precision.json"
# Projection of a small model in a small batch: 512 tokens, 1024 by 1024.
_ROWS, _WIDTH, _ROUNDS = 512, 1024, 5


def pick_dtype(dtype: Dtype, device: torch.device, *, cache: Path | None) -> torch.dtype:
    """Return the dtype of the base's floating-point weights on this device.

    "auto" is bfloat16 on CUDA if the device supports it, else float16. On a CPU it is bfloat16 if a measurement shows
    that its matrix products are faster than those of float32, else float32. "int8" and "nf4" give the dtype of the
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
    """Tell whether this CPU multiplies bfloat16 matrices faster than float32 ones. Measured once, in milliseconds."""
    cpu = f"{platform.processor()}/{torch.backends.cpu.get_cpu_capability()}"
    key = f"{platform.node()}/{cpu}/torch-{torch.__version__}"
    results = JsonCache(cache, _CACHE_FILE)
    is_faster = results.get(key)
    if is_faster is None:
        bfloat16_seconds, float32_seconds = _measure_seconds(torch.bfloat16, torch.float32)
        is_faster = bfloat16_seconds < float32_seconds
        results.put(key, is_faster)
    return bool(is_faster)


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
