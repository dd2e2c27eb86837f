"""Quantization of an adapter, with its cost: size, error of the update and held-out loss."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finch_hub import errors
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.atomic_writes import atomic_folder, scratch_folder, temporary_place
from finch_hub.formats.float_conversion import Float32
from finch_hub.formats.peft_config import config_text
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.formats.quantized import METADATA, Bits, Scheme
from finch_hub.formats.safetensors_file import write_safetensors
from finch_hub.progress import track
from finch_hub.specs.reports import QuantizationReport, TokenMetrics

_KIND = "quantized adapter"
_DTYPES = {np.dtype(np.int8): "I8", np.dtype(np.uint8): "U8", np.dtype(np.float16): "F16"}

Objective = Callable[[Path], TokenMetrics]


def quantize(
    adapter: Path,
    out: Path,
    *,
    scheme: Literal["auto", "int8", "int4"] = "auto",
    group: int | None = 64,
    objective: Objective | None = None,
    tolerance: float = 0.005,
) -> QuantizationReport:
    """Write an adapter folder with factors of 8 or 4 bits.

    Every part of Finch Hub reads it. First, :func:`spread` chooses the factors of the same product that lose least.
    Other tensors (DoRA's magnitudes, modules stored whole) stay as they are.

    Args:
        adapter: folder in PEFT's format.
        out: folder to write, missing or empty.
        scheme: ``auto`` tries 4 bits, then 8, and takes the first whose held-out loss stays within the tolerance.
        group: number of values that share a scale; None is a whole rank direction.
        objective: measures an adapter folder on held-out data; required by ``auto``.
        tolerance: allowed increase of the loss, as a share of the original loss.

    Returns:
        The report. For each scheme, `candidates` has the file's size, this size as a share of the bfloat16 size, and
        the held-out loss. The relative error is ``‖ΔW' − ΔW‖ / ‖ΔW‖`` over all modules.

    Raises:
        Incompatible: the adapter is quantized or not LoRA, or no scheme keeps the loss within the tolerance.
        InvalidSpec: ``auto`` without an objective.
        Conflict: `out` exists and is not empty.
        Unavailable: `out` cannot be written.
    """
    if scheme == "auto" and objective is None:
        fix = "use int8 or int4, or an adapter whose validation data are stored; in Python, an objective"
        raise errors.InvalidSpec("auto needs held-out data", where="scheme", fix=fix, subject="quantize")
    schemes: tuple[Bits, ...] = ("int4", "int8") if scheme == "auto" else (scheme,)
    candidates: list[dict[str, Any]] = []
    with StoredAdapter(adapter) as stored, scratch_folder(temporary_place()) as scratch:
        if METADATA in stored.file.metadata:
            raise errors.Incompatible(
                "is already quantized", fix="use the version that it was made from", subject=str(adapter)
            )
        before = objective(adapter) if objective is not None else None
        for bits in schemes:
            chosen = Scheme(bits=bits, group=group)
            folder = scratch / bits
            folder.mkdir()
            error = _write(stored, folder, chosen)
            after = objective(folder) if objective is not None else None
            size = (folder / WEIGHTS).stat().st_size
            candidates.append(
                {
                    "scheme": bits,
                    "group": group,
                    "bytes": size,
                    "share_of_bf16": size / _bytes_in_bf16(stored),
                    "relative_error": error,
                    "loss": None if after is None else after.loss,
                }
            )
            if scheme != "auto" or before is None or after is None or after.loss <= before.loss * (1 + tolerance):
                with atomic_folder(out, kind=_KIND) as final:
                    shutil.copytree(folder, final, dirs_exist_ok=True)
                return QuantizationReport(
                    scheme=bits,
                    group=group,
                    bytes_before=(adapter / WEIGHTS).stat().st_size,
                    bytes_after=size,
                    relative_error=error,
                    before=before,
                    after=after,
                    candidates=tuple(candidates),
                )
    losses = ", ".join(f"{c['scheme']} gives {c['loss']:.4f}" for c in candidates)
    loss = before.loss if before is not None else math.nan
    what = f"no scheme keeps the held-out loss of {loss:.4f} within {tolerance:.2%}: {losses}"
    raise errors.Incompatible(what, fix="allow a larger tolerance or use smaller groups", subject=str(adapter))


def spread(A: Float32, B: Float32) -> tuple[Float32, Float32]:
    """Return the factors of the same product that lose least when quantized.

    The error of quantization is a share of each row of A and column of B. The squared error of the product grows with
    ``Σ_i ‖b_i‖² ‖a_i‖²``. Let ``B A = U S Vᵀ`` be the thin singular value decomposition. The sum is then at least
    ``(Σ_k s_k)² / r``, by the nuclear norm and Cauchy-Schwarz. ``B = U √S R`` and ``A = Rᵀ √S Vᵀ`` reach this bound if
    the rotation R makes all directions equally strong. Such an R exists for every S (Schur-Horn) as a product of r - 1
    Givens rotations. The product itself is never formed.

    Args:
        A: ``[r, in]``.
        B: ``[out, r]``.
    """
    left, core_left = np.linalg.qr(B.astype(np.float64))
    right, core_right = np.linalg.qr(A.T.astype(np.float64))
    U, S, Vt = np.linalg.svd(core_left @ core_right.T)
    rank, num_values = A.shape[0], len(S)  # fewer values than the rank if a side is shorter
    strength = np.zeros(rank)
    strength[:num_values] = S
    rotation = _equalizing_rotation(strength)[:num_values]
    root = np.sqrt(S)[:, None] * rotation
    A = (root.T @ (Vt[:num_values] @ right.T)).astype(np.float32)
    return A, (left @ U[:, :num_values] @ root).astype(np.float32)


def _equalizing_rotation(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a rotation R that makes all diagonal entries of ``Rᵀ diag(strength) R`` equal."""
    matrix, rotation = np.diag(strength), np.eye(len(strength))
    mean = strength.mean()
    for _ in range(len(strength) - 1):
        diagonal = matrix.diagonal()
        i, j = int(diagonal.argmax()), int(diagonal.argmin())
        high, low, cross = diagonal[i] - mean, diagonal[j] - mean, matrix[i, j]
        if high <= 0 or low >= 0:
            break
        # The tangent t of the angle at which the rotated entry i is the mean solves low t² + 2 cross t + high = 0.
        tangent = (-cross - np.sqrt(cross * cross - high * low)) / low
        cosine = 1 / np.hypot(1, tangent)
        turn = np.array([[cosine, -tangent * cosine], [tangent * cosine, cosine]])
        matrix[:, [i, j]] = matrix[:, [i, j]] @ turn
        matrix[[i, j]] = turn.T @ matrix[[i, j]]
        rotation[:, [i, j]] = rotation[:, [i, j]] @ turn
    return rotation


def squared_distance(A: Float32, B: Float32, other_a: Float32, other_b: Float32) -> float:
    """Return ``‖B A − B' A'‖²`` of two factored updates without forming the products."""
    left = np.concatenate([B, -other_b], axis=1).astype(np.float64)
    right = np.concatenate([A, other_a], axis=0).astype(np.float64)
    return float(((left.T @ left) * (right @ right.T)).sum())


def _write(stored: StoredAdapter, folder: Path, scheme: Scheme) -> float:
    """Write the quantized folder and return the relative error of the whole update."""
    tensors = {name: (stored.file.tensors[name].dtype, stored.file.read_stored(name)) for name in stored.names}
    squared_error = squared_norm = 0.0
    for path, module in track(stored.modules.items(), "quantizing"):
        A, B = stored.factors(path)
        a, b = spread(A, B)
        packed = scheme.pack(module.a, a) | scheme.pack(module.b, b)
        tensors |= {name: (_DTYPES[array.dtype], array) for name, array in packed.items()}
        a, b = (scheme.restore(name, packed) for name in (module.a, module.b))
        squared_error += module.scale**2 * squared_distance(A, B, a, b)
        squared_norm += module.scale**2 * squared_distance(A, B, np.zeros_like(A), np.zeros_like(B))
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt", **scheme.metadata()})
    (folder / CONFIG).write_text(config_text(stored.config), encoding="utf-8")
    return math.sqrt(squared_error / squared_norm) if squared_norm else 0.0


def _bytes_in_bf16(stored: StoredAdapter) -> int:
    return sum(2 * info.elements for info in stored.file.tensors.values())
