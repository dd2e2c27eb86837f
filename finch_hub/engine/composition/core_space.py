"""The core space: every parent's update of a module as one small matrix between shared bases (arXiv 2509.17786).

For the parents' updates ``ΔW_t = B_t A_t [out, in]`` of one module, `left` U [out, p] is the left singular basis of
``[B_1 … B_T]``, `right` V [in, q] the right singular basis of ``[A_1; …; A_T]``, and ``M_t = Uᵀ ΔW_t V [p, q]``. The
projection is lossless, ``ΔW_t = U M_t Vᵀ``, and no ``[out, in]`` matrix is ever made. Before the bases are taken each
parent is balanced, ``B_t = U_t √S_t, A_t = √S_t V_tᵀ`` by the thin SVD of its own product, so that the same update
stored as (cB, A/c) gives the same core space.

Modules of equal shape are computed together, as one stack: a `Block`.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.composition import basis
from finch_hub.engine.composition.basis import Basis
from finch_hub.engine.composition.factors import Adapter
from finch_hub.engine.numerics import concurrency, linalg

# Float64 copies of tall factors are made for so many elements at a time: 16 MiB, for each thread.
_ELEMENTS = 1 << 21


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleCore:
    """One module's core space: left U [out, p], right V [in, q], cores M_t [p, q] of all parents, who is present."""

    left: Tensor
    right: Tensor
    cores: tuple[Tensor, ...]
    present: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Block:
    """The core spaces of n modules of equal shape.

    Attributes:
        modules: their paths, n of them.
        outputs: U [n, out, p] with the spectrum of the balanced ``[B_1 … B_T]``.
        inputs: V [n, in, q] with that of ``[A_1; …; A_T]``.
        cores: M [T, n, p, q], float64; zero for a parent that does not adapt these modules.
        ranks: of each parent's update here, at most; 0 for a parent that does not adapt these modules.

    """

    modules: tuple[str, ...]
    outputs: Basis
    inputs: Basis
    cores: Tensor
    ranks: tuple[int, ...]

    @property
    def present(self) -> tuple[int, ...]:
        """Positions of the parents that adapt these modules."""
        return tuple(t for t, rank in enumerate(self.ranks) if rank)

    def svds(self, rank: int | None = None) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return U [n, p, k], S [n, k], Vᵀ [n, k, q] of each present parent, with k its rank, or `rank` if less."""
        return [linalg.thin_svd(self.cores[t], min(self.ranks[t], rank or self.ranks[t])) for t in self.present]

    def take(self, chosen: Tensor) -> Block:
        """Return the block of those modules alone that a mask [n] chooses."""
        if bool(chosen.all()):
            return self
        return dataclasses.replace(
            self,
            modules=tuple(name for name, wanted in zip(self.modules, chosen.tolist(), strict=True) if wanted),
            outputs=self.outputs.take(chosen, self.cores.shape[-2]),
            inputs=self.inputs.take(chosen, self.cores.shape[-1]),
            cores=self.cores[:, chosen],
        )


@dataclass(frozen=True, kw_only=True)
class CoreSpace:
    """What strategies and resolvers work on.

    Attributes:
        parents: their names, in the order they were given; position t below is of the t-th.
        digests: their content's hashes; random choices are seeded by these, so names and order do not matter.
        blocks: the modules, in stacks of equal shape.

    """

    parents: tuple[str, ...]
    digests: tuple[str, ...]
    blocks: tuple[Block, ...]

    @cached_property
    def modules(self) -> Mapping[str, ModuleCore]:
        """The same, module by module: views, in the order of their paths."""
        found: dict[str, ModuleCore] = {}
        for block in self.blocks:
            left, right = block.outputs.form(), block.inputs.form()
            for i, module in enumerate(block.modules):
                found[module] = ModuleCore(
                    left=left[i],
                    right=right[i],
                    cores=tuple(core[i] for core in block.cores),
                    present=tuple(rank > 0 for rank in block.ranks),
                )
        return dict(sorted(found.items()))

    def merge(self, weights: Sequence[float], merge: Callable[[Block, Tensor], Tensor]) -> dict[str, Tensor]:
        """Apply ``merge(block, weights [T']) -> M [n, p, q]`` to every block, with the weights of those present.

        A module that one parent alone adapts has no conflict: it is that parent's, times its weight, whatever the
        strategy would trim or flatten.
        """

        def of_block(block: Block) -> Tensor:
            here = torch.tensor([weights[t] for t in block.present], dtype=block.cores.dtype)
            return block.cores[block.present[0]] * here[0] if len(block.present) == 1 else merge(block, here)

        made = concurrency.in_threads(of_block, self.blocks)
        return {
            m: M for block, Ms in zip(self.blocks, made, strict=True) for m, M in zip(block.modules, Ms, strict=True)
        }

    def map(
        self, resolve: Callable[[Block], Tensor], *, modules: Sequence[str] = (), rank_grows: bool = False
    ) -> CoreSpace:
        """Replace the cores of every block that several parents adapt by ``resolve(block) -> cores [T, n, p, q]``.

        `rank_grows` tells that the new cores may have a higher rank than the old ones. Where regular expressions are
        given, only modules whose path one of them matches (anywhere) are changed.
        """

        unmatched = [pattern for pattern in modules if not any(re.search(pattern, name) for name in self.modules)]
        if unmatched:
            problems = [errors.Problem(where="modules", what=f"{one!r} matches no adapted module") for one in unmatched]
            raise errors.Incompatible(problems, subject="resolver")

        def of_block(block: Block) -> list[Block]:
            if len(block.present) == 1:
                return [block]
            resolved = dataclasses.replace(block, cores=resolve(block))
            if rank_grows:
                full = min(block.cores.shape[-2:])
                resolved = dataclasses.replace(resolved, ranks=tuple(full if rank else 0 for rank in block.ranks))
            asked = [not modules or any(re.search(pattern, name) for pattern in modules) for name in block.modules]
            chosen = torch.tensor(asked)
            return [part for part in (resolved.take(chosen), block.take(~chosen)) if part.modules]

        parts = concurrency.in_threads(of_block, self.blocks)
        return dataclasses.replace(self, blocks=tuple(part for found in parts for part in found))


def build(adapters: Sequence[Adapter]) -> CoreSpace:
    """Bring adapters of one base to their common core space.

    Modules are united over the parents, ranks may differ.

    Raises:
        Incompatible: a module has another shape in one parent than in another, or factors hold NaN or infinity; all
            problems at once.

    """
    shapes: dict[str, tuple[int, int]] = {}
    groups: dict[tuple[tuple[int, int], tuple[int, ...]], list[str]] = defaultdict(list)
    problems: list[errors.Problem] = []
    for adapter in adapters:
        for module, update in adapter.factors.items():
            shape = (update.B.shape[0], update.A.shape[1])
            if shapes.setdefault(module, shape) != shape:
                what = f"{adapter.name} has shape {list(shape)}, another parent {list(shapes[module])}"
                problems.append(errors.Problem(where=module, what=what, fix="compose adapters of one base only"))
    if not problems:
        for module, shape in shapes.items():
            ranks = tuple(a.factors[module].rank if module in a.factors else 0 for a in adapters)
            groups[shape, ranks].append(module)
    chunks: list[tuple[tuple[str, ...], tuple[int, ...]]] = []
    for (shape, ranks), modules in groups.items():
        size = max(1, _ELEMENTS // (sum(shape) * sum(ranks)))
        chunks += [(tuple(modules[start : start + size]), ranks) for start in range(0, len(modules), size)]
    projected = concurrency.in_threads(lambda chunk: _project(chunk[0], adapters, chunk[1]), chunks)
    if problems or any(blocks is None for blocks in projected):
        raise errors.Incompatible([*problems, *_not_finite(adapters)], subject="parents")
    return CoreSpace(
        parents=tuple(adapter.name for adapter in adapters),
        digests=tuple(adapter.digest for adapter in adapters),
        blocks=tuple(block for blocks in projected if blocks is not None for block in blocks),
    )


def _not_finite(adapters: Sequence[Adapter]) -> list[errors.Problem]:
    return [
        errors.Problem(where=module, what=f"{adapter.name} holds NaN or infinity")
        for adapter in adapters
        for module, update in adapter.factors.items()
        if not (update.A.isfinite().all() and update.B.isfinite().all())
    ]


def _project(modules: tuple[str, ...], adapters: Sequence[Adapter], ranks: tuple[int, ...]) -> list[Block] | None:
    """Project modules of equal shape and ranks, None where they hold NaN or infinity.

    They part into several blocks only where numerical ranks differ.
    """
    here = [adapter for adapter, rank in zip(adapters, ranks, strict=True) if rank]
    B = torch.stack([torch.cat([a.factors[m].B for a in here], dim=1) for m in modules]).float()
    A = torch.stack([torch.cat([a.factors[m].A for a in here], dim=0) for m in modules]).float().mT
    gram_B, gram_A = _gram(B), _gram(A)
    if not (gram_B.isfinite().all() and gram_A.isfinite().all()):
        return None
    slices = _slices(ranks)
    X, Y = torch.zeros_like(gram_B), torch.zeros_like(gram_A)
    for part in slices:
        if part is not None:
            X[:, part, part], Y[:, part, part] = _balancing(gram_B[:, part, part], gram_A[:, part, part])
    outputs, left = basis.find(B, gram_B, X)
    inputs, right = basis.find(A, gram_A, Y)
    counts = torch.stack([(outputs.values > 0).sum(-1), (inputs.values > 0).sum(-1)], dim=1)
    blocks: list[Block] = []
    for count in torch.unique(counts, dim=0):
        chosen = (counts == count).all(dim=1)
        p, q = (max(1, int(c)) for c in count)
        L, R = left[chosen, :p], right[chosen, :q]
        cores = torch.zeros(len(ranks), len(L), p, q, dtype=L.dtype)
        for t, part in enumerate(slices):
            if part is not None:
                torch.matmul(L[..., part], R[..., part].mT, out=cores[t])
        blocks.append(
            Block(
                modules=tuple(name for name, wanted in zip(modules, chosen.tolist(), strict=True) if wanted),
                outputs=outputs.take(chosen, p),
                inputs=inputs.take(chosen, q),
                cores=cores,
                ranks=tuple(min(rank, p, q) for rank in ranks),
            )
        )
    return blocks


def _gram(stacked: Tensor) -> Tensor:
    """Return ``XᵀX [n, R, R]`` in float64, module by module, so that the copies in float64 stay in the cache."""
    found = torch.empty(len(stacked), stacked.shape[-1], stacked.shape[-1], dtype=torch.float64)
    for one, out in zip(stacked, found, strict=True):
        copy = one.double()
        torch.matmul(copy.mT, copy, out=out)
    return found


def _slices(ranks: Sequence[int]) -> list[slice | None]:
    """Columns of each parent in the stacked factors, None for a parent that has none."""
    found: list[slice | None] = []
    start = 0
    for rank in ranks:
        found.append(slice(start, start + rank) if rank else None)
        start += rank
    return found


def _balancing(gram_B: Tensor, gram_A: Tensor) -> tuple[Tensor, Tensor]:
    """Return X, Y [n, r, r] such that ``B X = U √S`` and ``Aᵀ Y = V √S``, where ``B A = U S Vᵀ`` is the thin SVD.

    Takes ``BᵀB`` and ``A Aᵀ``. With ``B = Q_B Λ Eᵀ`` from the first, the product's left singular vectors and squared
    singular values are the eigenpairs of ``ΛEᵀ (A Aᵀ) EΛ``.
    """
    values, E = linalg.spectrum(gram_B)
    half = values.unsqueeze(-1) * E.mT
    S, P = linalg.spectrum(half @ gram_A @ half.mT)
    root = S.sqrt()
    X = E * linalg.inverse(values).unsqueeze(-2) @ P * root.unsqueeze(-2)
    Y = half.mT @ P * linalg.inverse(root).unsqueeze(-2)
    return X, Y
