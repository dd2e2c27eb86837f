"""Initial values of A, which depend only on the module and a seed's name, on every machine and in every version."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch

SHARED = "shared"


def make_initial_a(path: str, rank: int, in_features: int, *, seed: str = SHARED) -> torch.Tensor:
    """Return the initial A of one module: uniform in ±1/√in_features, float32, [rank, in_features].

    That is the distribution of `kaiming_uniform_` with a = √5, as in PEFT. The bits come from SHAKE-128 over the seed's
    name, the module's path and its width, row by row. So they do not depend on the library, the number of threads or
    the order of modules. The A of a smaller rank is the first rows of the A of a larger rank: adapters of mixed ranks
    start in nested subspaces, which makes them easier to compose.

    Args:
        path: path of the module in the model, such as ``model.layers.0.self_attn.q_proj``.
        seed: name of the seed; "shared" gives the A that all adapters of a base share.
    """
    name = f"finch-hub initial A 1\n{seed}\n{path}\n{in_features}\n".encode()
    bits = np.frombuffer(hashlib.shake_128(name).digest(4 * rank * in_features), dtype="<u4")
    # A float32 holds 24 bits exactly. Adding 0.5 centers the grid, so that the mean is zero.
    unit = ((bits >> 8).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23) - np.float32(1.0)
    return torch.from_numpy(unit.reshape(rank, in_features) * np.float32(1.0 / math.sqrt(in_features)))
