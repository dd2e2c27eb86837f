"""How A begins: numbers that depend on the module and a seed's name alone, on every machine and in every version."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch

SHARED = "shared"


def initial_a(path: str, rank: int, in_features: int, *, seed: str = SHARED) -> torch.Tensor:
    """Return the first value of A for one module: uniform in ±1/√in_features, float32, shape [rank, in_features].

    That is the distribution of `kaiming_uniform_` with a = √5, as PEFT begins. The bits come from SHAKE-128 over the
    seed's name, the module's path and its width, row after row. So they do not depend on the library, the thread
    count or the order of modules, and the A of a smaller rank is the first rows of the A of a larger one: adapters of
    mixed ranks begin in nested subspaces, which is what makes them fit to be composed.

    Args:
        path: module path within the model, such as ``model.layers.0.self_attn.q_proj``.
        rank: rows.
        in_features: columns.
        seed: "shared" for the A that all adapters of a base have in common, or any other name.

    """
    name = f"finch-hub initial A 1\n{seed}\n{path}\n{in_features}\n".encode()
    bits = np.frombuffer(hashlib.shake_128(name).digest(4 * rank * in_features), dtype="<u4")
    # 24 bits are what a float32 holds exactly; the half centres the grid, so that the mean is zero.
    unit = ((bits >> 8).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23) - np.float32(1.0)
    return torch.from_numpy(unit.reshape(rank, in_features) * np.float32(1.0 / math.sqrt(in_features)))
