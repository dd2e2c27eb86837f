"""Resolvers and strategies on dense matrices in numpy, to compare compositions with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from support.updates import Dense

TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class DenseParents:
    """Updates of one module.

    Attributes:
        own: update of each parent [out, in], as it was trained.
        resolved: the same after a resolver.
        rank: rank of each parent's own update.
    """

    own: list[Dense]
    resolved: list[Dense]
    rank: int

    def bases(self) -> tuple[Dense, Dense, Dense]:
        """Return U and V of the balanced parents' own updates, and the singular values of the side of the outputs."""
        B, A = [], []
        for update in self.own:
            U, S, Vh = np.linalg.svd(update, full_matrices=False)
            B.append(U[:, : self.rank] * np.sqrt(S[: self.rank]))
            A.append(np.sqrt(S[: self.rank])[:, None] * Vh[: self.rank])
        U, values, _ = np.linalg.svd(np.concatenate(B, axis=1), full_matrices=False)
        _, inputs, Vh = np.linalg.svd(np.concatenate(A, axis=0), full_matrices=False)
        count = int((values > TOLERANCE * values[0]).sum())
        return U[:, :count], Vh[inputs > TOLERANCE * inputs[0]].T, values[:count]

    def cores(self) -> Dense:
        """Return ``Uᵀ ΔW V`` of each resolved parent, without rounding errors."""
        U, V, _ = self.bases()
        cores = np.stack([U.T @ update @ V for update in self.resolved])
        norms = np.array([np.linalg.norm(update) for update in self.own])
        return np.where(np.abs(cores) > TOLERANCE * norms[:, None, None], cores, 0)


def calibrate(parents: DenseParents) -> list[Dense]:
    U, _, values = parents.bases()
    c = values**2 / (values**2).sum()
    alpha = 1 / (1 + (len(parents.own) - 1) * c)
    return [update + U @ np.diag(alpha - 1) @ U.T @ update for update in parents.own]


def drop(parents: DenseParents, *, losers: bool) -> list[Dense]:
    U, V, _ = parents.bases()
    cores = parents.cores()
    winner = np.sign(cores.sum(0))
    is_disputed = (cores > 0).any(0) & (cores < 0).any(0)
    kept = np.where(np.sign(cores) == winner if losers else ~is_disputed, cores, 0)
    return [U @ M @ V.T for M in kept]


def priority(parents: DenseParents, *, sides: str) -> list[Dense]:
    resolved = [parents.own[0]]
    for t, update in enumerate(parents.own[1:], start=1):
        earlier = parents.own[:t]
        if sides != "right":
            update = update - project(np.concatenate(earlier, axis=1)) @ update
        if sides != "left":
            update = update - update @ project(np.concatenate(earlier, axis=0).T)
        resolved.append(update)
    return resolved


def project(matrix: Dense) -> Dense:
    U, S, _ = np.linalg.svd(matrix, full_matrices=False)
    U = U[:, TOLERANCE * S[0] < S]
    return U @ U.T


def orthogonalize(parents: DenseParents, *, sides: str) -> list[Dense]:
    U, S, V, counts = orthogonal_triplets(parents, keep=None, sides=sides)
    ends = np.cumsum(counts)
    return [(U[:, e - n : e] * S[e - n : e]) @ V[:, e - n : e].T for n, e in zip(counts, ends, strict=True)]


def orthogonal_triplets(
    parents: DenseParents, *, keep: int | None, sides: str
) -> tuple[Dense, Dense, Dense, list[int]]:
    """Return the parents' singular triplets side by side, orthogonalized by Procrustes, and the number of each."""
    U, S, V, counts = [], [], [], []
    for own, update in zip(parents.own, parents.resolved, strict=True):
        u, s, vh = np.linalg.svd(update, full_matrices=False)
        count = min(keep or len(s), int((s > TOLERANCE * np.linalg.norm(own)).sum()))
        U.append(u[:, :count])
        S.append(s[:count])
        V.append(vh[:count].T)
        counts.append(count)
    left, right = np.concatenate(U, axis=1), np.concatenate(V, axis=1)
    left = polar(left) if sides in ("left", "both") else left
    right = polar(right) if sides in ("right", "both") else right
    return left, np.concatenate(S), right, counts


def polar(matrix: Dense) -> Dense:
    P, S, Qh = np.linalg.svd(matrix, full_matrices=False)
    is_real = TOLERANCE * S[0] < S
    return P[:, is_real] @ Qh[is_real]


def total(parents: DenseParents, weights: Sequence[float]) -> Dense:
    return np.sum([w * update for w, update in zip(weights, parents.resolved, strict=True)], axis=0)


def total_with_the_parents_norm(parents: DenseParents, weights: Sequence[float]) -> Dense:
    found = total(parents, weights)
    mean = np.mean([abs(w) * np.linalg.norm(update) for w, update in zip(weights, parents.own, strict=True)])
    return found * mean / np.linalg.norm(found)


def ties(parents: DenseParents, weights: Sequence[float], *, density: float, masks: Dense | float = 1.0) -> Dense:
    """Trim, elect and average as the paper does, entry by entry, in the parents' common bases."""
    U, V, _ = parents.bases()
    cores = parents.cores() * masks
    T, rows, columns = cores.shape
    merged = np.zeros((rows, columns))
    for t in range(T):
        order = sorted(np.ndindex(rows, columns), key=lambda at, t=t: -abs(cores[t][at]))  # type: ignore[misc]
        for at in order[math.ceil(density * rows * columns) :]:
            cores[t][at] = 0
    for at in np.ndindex(rows, columns):
        elected = np.sign(sum(cores[t][at] for t in range(T)))
        agreeing = [w * cores[t][at] for t, w in enumerate(weights) if np.sign(cores[t][at]) == elected != 0]
        merged[at] = np.mean(agreeing) if agreeing else 0
    return U @ merged @ V.T


def dare(parents: DenseParents, weights: Sequence[float], masks: Dense) -> Dense:
    U, V, _ = parents.bases()
    return U @ np.einsum("t,tpq->pq", np.array(weights), parents.cores() * masks) @ V.T


def tsv(parents: DenseParents, weights: Sequence[float], *, keep: int | None, sides: str) -> Dense:
    U, S, V, counts = orthogonal_triplets(parents, keep=keep, sides=sides)
    return (U * (S * np.repeat(weights, counts))) @ V.T
