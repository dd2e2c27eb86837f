"""Which number format a device computes in fastest, by measuring it once."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Literal, get_args

import torch

from finch_hub import errors

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8", "nf4"]
_CACHE_FILE = "precision.json"
# A product of the size of a small model's projection at a small batch: 512 tokens, 1024 by 1024.
_ROWS, _WIDTH, _ROUNDS = 512, 1024, 5


def pick_dtype(dtype: Dtype, device: torch.device, *, cache: Path | None) -> torch.dtype:
    """Return the dtype of the base's floating-point weights on this device.

    "auto" is bfloat16 where it computes at speed: on CUDA where the device has it (else float16), on a CPU where a
    measurement shows its matrix products to beat float32's (else float32). With "int8" and "nf4" it is the dtype of
    what stays unquantised.

    Raises:
        InvalidSpec: unknown dtype, float16 on a CPU, or a quantised base without CUDA and bitsandbytes.

    """
    problem: errors.Problem | None = None
    if dtype not in get_args(Dtype):
        problem = errors.Problem(what=f"{dtype!r} is no dtype", fix=f"use one of {', '.join(get_args(Dtype))}")
    elif dtype in ("int8", "nf4") and device.type != "cuda":
        problem = errors.Problem(what=f"{dtype} needs a CUDA device", fix="use auto")
    elif dtype in ("int8", "nf4") and not _has_bitsandbytes():
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
        return torch.bfloat16 if bfloat16_pays(cache=cache) else torch.float32
    return torch.float32


def bfloat16_pays(*, cache: Path | None) -> bool:
    """Tell whether this CPU multiplies bfloat16 matrices faster than float32 ones; measured once, some milliseconds."""
    key = (
        f"{platform.node()}/{platform.processor()}/{torch.backends.cpu.get_cpu_capability()}/torch-{torch.__version__}"
    )
    known: dict[str, bool] = {}
    if cache is not None:
        try:
            known = json.loads((cache / _CACHE_FILE).read_bytes())
        except (OSError, ValueError):
            known = {}  # missing or damaged: measuring again is always right
    if key not in known:
        known[key] = _bfloat16_is_faster()
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=cache, prefix=_CACHE_FILE)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(known, stream)
            Path(name).replace(cache / _CACHE_FILE)
    return known[key]


def _bfloat16_is_faster() -> bool:
    """Compare the least times of matrix products in both dtypes.

    The dtypes take turns, so that other load slows both, and the least of several times is what it slows least.
    """
    dtypes = (torch.bfloat16, torch.float32)
    products = [(torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_WIDTH, _WIDTH, dtype=dtype)) for dtype in dtypes]
    best = [float("inf")] * len(dtypes)
    with torch.inference_mode():
        for _ in range(_ROUNDS):
            for which, (x, w) in enumerate(products):
                begin = time.perf_counter()
                torch.nn.functional.linear(x, w)
                best[which] = min(best[which], time.perf_counter() - begin)
    return best[0] < best[1]


def _has_bitsandbytes() -> bool:
    import importlib.util

    return importlib.util.find_spec("bitsandbytes") is not None
