"""An adapter stored at fewer bits, with what that costs: size, error of the update, held-out loss."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finch_hub import errors
from finch_hub.formats import staging
from finch_hub.formats.adapter_folder import CONFIG, WEIGHTS, StoredAdapter
from finch_hub.formats.quantized import METADATA, SCALE, Bits, Scheme, dequantize
from finch_hub.formats.tensor_file import Float32, write_file
from finch_hub.specs.reports import QuantizationReport, TokenMetrics

__all__ = ["METADATA", "SCALE", "Scheme", "dequantize", "quantize"]

KIND = "quantised adapter"
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
    """Write an adapter's factors at 8 or 4 bits as an adapter folder that every part of Finch Hub reads.

    The factors are first turned into those of the same product that lose least (see :func:`spread`). Other tensors
    (DoRA's magnitudes, modules stored whole) stay as they are.

    Args:
        adapter: folder in PEFT's format.
        out: folder to write; must not exist or be empty.
        scheme: ``auto`` tries 4 bits, then 8, and takes the first whose held-out loss stays within the tolerance.
        group: values that share a scale; None is the whole of a rank direction.
        objective: measures an adapter folder on held-out data; asked for by ``auto``.
        tolerance: by how much the loss may grow, as a share of the original's.

    Returns:
        The report; `candidates` holds for each scheme tried its file's size, that size as a share of the same tensors'
        in bfloat16, the relative error ``‖ΔW' − ΔW‖ / ‖ΔW‖`` over all modules, and the held-out loss.

    Raises:
        Incompatible: the adapter is quantised already or is no LoRA; no scheme keeps the loss within the tolerance.
        InvalidSpec: ``auto`` without an objective.
        Conflict: `out` exists and is not empty.
        Unavailable: `out` cannot be written.

    """
    if scheme == "auto" and objective is None:
        problem = errors.Problem(what="auto needs held-out data", where="scheme", fix="give some, or int8 or int4")
        raise errors.InvalidSpec(problem, subject="quantize")
    tries: tuple[Bits, ...] = ("int4", "int8") if scheme == "auto" else (scheme,)
    candidates: list[dict[str, Any]] = []
    with StoredAdapter(adapter) as stored, tempfile.TemporaryDirectory() as scratch:
        if METADATA in stored.file.metadata:
            problem = errors.Problem(what="is quantised already", fix="take the version that it was made from")
            raise errors.Incompatible(problem, subject=str(adapter))
        before = objective(adapter) if objective is not None else None
        for bits in tries:
            chosen = Scheme(bits=bits, group=group)
            folder = Path(scratch) / bits
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
                with staging.staged(out, kind=KIND) as final:
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
    found = ", ".join(f"{c['scheme']} gives {c['loss']:.4f}" for c in candidates)
    loss = before.loss if before is not None else math.nan
    what = f"no scheme keeps the held-out loss of {loss:.4f} within {tolerance:.2%}: {found}"
    raise errors.Incompatible(errors.Problem(what=what, fix="allow more, or smaller groups"), subject=str(adapter))


def spread(A: Float32, B: Float32) -> tuple[Float32, Float32]:
    """Return the factors of the same product that lose least when quantised.

    Quantising errs by a share of each row of A and column of B, so the squared error of the product goes with
    ``Σ_i ‖b_i‖² ‖a_i‖²``. With the thin singular value decomposition ``B A = U S Vᵀ`` that is at least
    ``(Σ_k s_k)² / r``, by the nuclear norm and Cauchy-Schwarz, and ``B = U √S R``, ``A = Rᵀ √S Vᵀ`` reaches it where
    the rotation R makes all directions equally strong. One exists for every S (Schur-Horn), a product of r - 1 Givens
    rotations. The product itself is never formed.

    Args:
        A: ``[r, in]``.
        B: ``[out, r]``.

    """
    left, core_left = np.linalg.qr(B.astype(np.float64))
    right, core_right = np.linalg.qr(A.T.astype(np.float64))
    U, S, Vt = np.linalg.svd(core_left @ core_right.T)
    rank, known = A.shape[0], len(S)  # fewer than the rank where a side is shorter than it
    strength = np.zeros(rank)
    strength[:known] = S
    rotation = _equalizing(strength)[:known]
    root = np.sqrt(S)[:, None] * rotation
    return (root.T @ (Vt[:known] @ right.T)).astype(np.float32), (left @ U[:, :known] @ root).astype(np.float32)


def _equalizing(strength: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a rotation R for which every entry of the diagonal of ``Rᵀ diag(strength) R`` is their mean."""
    matrix, rotation = np.diag(strength), np.eye(len(strength))
    mean = strength.mean()
    for _ in range(len(strength) - 1):
        diagonal = matrix.diagonal()
        i, j = int(diagonal.argmax()), int(diagonal.argmin())
        high, low, cross = diagonal[i] - mean, diagonal[j] - mean, matrix[i, j]
        if high <= 0 or low >= 0:
            break
        # tan of the angle at which the rotated i-th entry is the mean: low t² + 2 cross t + high = 0
        tangent = (-cross - np.sqrt(cross * cross - high * low)) / low
        cosine = 1 / np.hypot(1, tangent)
        turn = np.array([[cosine, -tangent * cosine], [tangent * cosine, cosine]])
        matrix[:, [i, j]] = matrix[:, [i, j]] @ turn
        matrix[[i, j]] = turn.T @ matrix[[i, j]]
        rotation[:, [i, j]] = rotation[:, [i, j]] @ turn
    return rotation


def squared_distance(A: Float32, B: Float32, other_a: Float32, other_b: Float32) -> float:
    """Return ``‖B A − B' A'‖²`` of two factored updates without forming either."""
    left = np.concatenate([B, -other_b], axis=1).astype(np.float64)
    right = np.concatenate([A, other_a], axis=0).astype(np.float64)
    return float(((left.T @ left) * (right @ right.T)).sum())


def _write(stored: StoredAdapter, folder: Path, scheme: Scheme) -> float:
    """Write the quantised folder and return the relative error of the whole update."""
    tensors = {name: (stored.file.tensors[name].dtype, stored.file.raw(name)) for name in stored.names}
    missed = whole = 0.0
    for path, module in stored.modules.items():
        A, B = stored.factors(path)
        a, b = spread(A, B)
        packed = scheme.pack(module.a, a) | scheme.pack(module.b, b)
        tensors |= {name: (_DTYPES[array.dtype], array) for name, array in packed.items()}
        a, b = (scheme.restore(name, packed) for name in (module.a, module.b))
        missed += module.scale**2 * squared_distance(A, B, a, b)
        whole += module.scale**2 * squared_distance(A, B, np.zeros_like(A), np.zeros_like(B))
    write_file(folder / WEIGHTS, tensors, {"format": "pt", **scheme.metadata()})
    (folder / CONFIG).write_text(json.dumps(dict(stored.config), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return math.sqrt(missed / whole) if whole else 0.0


def _bytes_in_bf16(stored: StoredAdapter) -> int:
    return sum(2 * info.elements for info in stored.file.tensors.values())
