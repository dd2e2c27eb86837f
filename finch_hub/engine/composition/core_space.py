"""Core space: the parents' updates of each module as small matrices between shared bases (arXiv 2509.17786).

Parent t updates a module by ``ΔW_t = B_t A_t [out, in]``. The basis U [out, p] is the left singular basis of
``[B_1 … B_T]``. The basis V [in, q] is the right singular basis of ``[A_1; …; A_T]``. The core of parent t is
``M_t = Uᵀ ΔW_t V [p, q]``. The projection is lossless, ``ΔW_t = U M_t Vᵀ``, and no ``[out, in]`` matrix is computed.

Each parent is balanced first: ``B_t = U_t √S_t, A_t = √S_t V_tᵀ``, from the thin SVD of its own product. So the same
update stored as (cB, A/c) has the same core space.

Modules of equal shape are computed together in stacks. A stack is a `Block`.
"""

from __future__ import annotations

import dataclasses
import itertools
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
from finch_hub.engine.composition.parents import ParentAdapter
from finch_hub.engine.numerics import concurrency, linalg

# Maximum number of elements of a block's tall factors: their float64 copies take 16 MiB in each thread.
_MAX_BLOCK_ELEMENTS = 1 << 21


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleCore:
    """Core space of one module: U [out, p], V [in, q], M_t [p, q] of all parents, and positions of present parents."""

    left: Tensor
    right: Tensor
    cores: tuple[Tensor, ...]
    present: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Core spaces of n modules of equal shape.

    Attributes:
        modules: paths of the n modules.
        outputs: U [n, out, p] with the spectrum of the balanced ``[B_1 … B_T]``.
        inputs: V [n, in, q] with the spectrum of the balanced ``[A_1; …; A_T]``.
        cores: M [T, n, p, q], float64; zero for a parent that does not change these modules.
        ranks: upper bound of the rank of each parent's update; 0 for a parent that does not change these modules.
        norms: Frobenius norm [T, n] of each parent's own update. It stays when a resolver changes the cores.
    """

    modules: tuple[str, ...]
    outputs: Basis
    inputs: Basis
    cores: Tensor
    ranks: tuple[int, ...]
    norms: Tensor

    @property
    def present(self) -> tuple[int, ...]:
        """Positions of the parents that change these modules."""
        return tuple(t for t, rank in enumerate(self.ranks) if rank)

    def svds(self, rank: int | None = None) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return U [n, p, k], S [n, k], Vᵀ [n, k, q] of each present parent; k is its rank, but at most `rank`."""
        return [linalg.thin_svd(self.cores[t], min(self.ranks[t], rank or self.ranks[t])) for t in self.present]

    def select(self, mask: Tensor) -> Block:
        """Return the block of the modules that a mask [n] selects."""
        if bool(mask.all()):
            return self
        return dataclasses.replace(
            self,
            modules=_select_names(self.modules, mask),
            outputs=self.outputs.select(mask, self.cores.shape[-2]),
            inputs=self.inputs.select(mask, self.cores.shape[-1]),
            cores=self.cores[:, mask],
            norms=self.norms[:, mask],
        )


@dataclass(frozen=True, kw_only=True)
class CoreSpace:
    """Input of strategies and resolvers: the parents' updates of all modules.

    Attributes:
        parents: names of the parents; position t elsewhere means the t-th name.
        digests: content hashes of the parents. They seed random choices, so that names and order do not matter.
        blocks: modules, in stacks of equal shape.
    """

    parents: tuple[str, ...]
    digests: tuple[str, ...]
    blocks: tuple[Block, ...]

    @cached_property
    def modules(self) -> Mapping[str, ModuleCore]:
        """Core space of each module, as views of the blocks, in the order of the module paths."""
        cores_by_module: dict[str, ModuleCore] = {}
        for block in self.blocks:
            left, right = block.outputs.form(), block.inputs.form()
            for i, module in enumerate(block.modules):
                cores = tuple(core[i] for core in block.cores)
                cores_by_module[module] = ModuleCore(left=left[i], right=right[i], cores=cores, present=block.present)
        return dict(sorted(cores_by_module.items()))

    def merge(self, weights: Sequence[float], merge: Callable[[Block, Tensor], Tensor]) -> dict[str, Tensor]:
        """Apply ``merge(block, weights [T']) -> M [n, p, q]`` to every block, with the weights of present parents.

        If only one parent changes a module, there is no conflict. The result is then that parent's core times its
        weight, without a call of `merge`.
        """

        def merge_block(block: Block) -> Tensor:
            present = torch.tensor([weights[t] for t in block.present], dtype=block.cores.dtype)
            return block.cores[block.present[0]] * present[0] if len(block.present) == 1 else merge(block, present)

        merged = concurrency.map_in_threads(merge_block, self.blocks)
        return {
            m: M for block, Ms in zip(self.blocks, merged, strict=True) for m, M in zip(block.modules, Ms, strict=True)
        }

    def map(
        self, resolve: Callable[[Block], Tensor], *, modules: Sequence[str] = (), rank_grows: bool = False
    ) -> CoreSpace:
        """Replace the cores of every block that several parents change by ``resolve(block) -> cores [T, n, p, q]``.

        If `modules` has regular expressions, only modules whose path matches one of them (anywhere) change.
        `rank_grows` says that the new cores can have a higher rank than the old ones.

        Raises:
            Incompatible: a regular expression matches no module.
        """
        unmatched = [pattern for pattern in modules if not any(matches([pattern], name) for name in self.modules)]
        if unmatched:
            problems = [errors.Problem(where="modules", what=f"{p!r} matches no adapted module") for p in unmatched]
            raise errors.Incompatible(problems, subject="resolver")

        def resolve_block(block: Block) -> list[Block]:
            if len(block.present) == 1:
                return [block]
            resolved = dataclasses.replace(block, cores=resolve(block))
            if rank_grows:
                full = min(block.cores.shape[-2:])
                resolved = dataclasses.replace(resolved, ranks=tuple(full if rank else 0 for rank in block.ranks))
            mask = torch.tensor([matches(modules, name) for name in block.modules])
            return [part for part in (resolved.select(mask), block.select(~mask)) if part.modules]

        parts = concurrency.map_in_threads(resolve_block, self.blocks)
        return dataclasses.replace(self, blocks=tuple(block for part in parts for block in part))


def matches(patterns: Sequence[str], module: str) -> bool:
    """Tell whether a regular expression matches a module's path (anywhere); without patterns all modules match."""
    return not patterns or any(re.search(pattern, module) for pattern in patterns)


def build(adapters: Sequence[ParentAdapter]) -> CoreSpace:
    """Project adapters of one base to their common core space.

    The adapters can have different ranks and different modules.

    Raises:
        Incompatible: a module has different shapes, or factors hold NaN or infinity; it names all such modules.
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
        size = max(1, _MAX_BLOCK_ELEMENTS // (sum(shape) * sum(ranks)))
        chunks += [(tuple(modules[start : start + size]), ranks) for start in range(0, len(modules), size)]
    projected = concurrency.map_in_threads(lambda chunk: _project(chunk[0], adapters, chunk[1]), chunks)
    if problems or any(blocks is None for blocks in projected):
        problems += [
            errors.Problem(where=module, what=f"{adapter.name} holds NaN or infinity")
            for adapter in adapters
            for module, update in adapter.factors.items()
            if not update.is_finite
        ]
        raise errors.Incompatible(problems, subject="parents")
    return CoreSpace(
        parents=tuple(adapter.name for adapter in adapters),
        digests=tuple(adapter.digest for adapter in adapters),
        blocks=tuple(block for blocks in projected if blocks is not None for block in blocks),
    )


def _project(modules: tuple[str, ...], adapters: Sequence[ParentAdapter], ranks: tuple[int, ...]) -> list[Block] | None:
    """Project modules of equal shape and ranks; return None if their factors hold NaN or infinity.

    Modules get a block together if their numerical ranks are equal, and if the same parents change them. A parent
    whose update of a module is zero does not change it. If all updates are zero, all parents count.
    """
    present = [adapter for adapter, rank in zip(adapters, ranks, strict=True) if rank]
    B = torch.stack([torch.cat([a.factors[m].B for a in present], dim=1) for m in modules]).float()
    A = torch.stack([torch.cat([a.factors[m].A for a in present], dim=0) for m in modules]).float().mT
    gram_B, gram_A = _compute_gram(B), _compute_gram(A)
    if not (gram_B.isfinite().all() and gram_A.isfinite().all()):
        return None
    slices = _slice_columns(ranks)
    X, Y = torch.zeros_like(gram_B), torch.zeros_like(gram_A)
    for part in slices:
        if part is not None:
            X[:, part, part], Y[:, part, part] = _compute_balance(gram_B[:, part, part], gram_A[:, part, part])
    outputs, left = basis.orthonormalize(B, gram_B, X)
    inputs, right = basis.orthonormalize(A, gram_A, Y)
    is_changed = torch.stack([X[:, part, part].any(-1).any(-1) for part in slices if part is not None], dim=1)
    is_changed |= ~is_changed.any(dim=1, keepdim=True)
    counts = torch.stack([(outputs.values > 0).sum(-1), (inputs.values > 0).sum(-1)], dim=1)
    keys = torch.cat([counts, is_changed], dim=1)
    blocks: list[Block] = []
    for key in torch.unique(keys, dim=0):
        mask = (keys == key).all(dim=1)
        p, q = (max(1, int(count)) for count in key[:2])
        changed = iter(key[2:].tolist())
        L, R = left[mask, :p], right[mask, :q]
        cores = torch.zeros(len(ranks), len(L), p, q, dtype=L.dtype)
        for t, part in enumerate(slices):
            if part is not None:
                torch.matmul(L[..., part], R[..., part].mT, out=cores[t])
        blocks.append(
            Block(
                modules=_select_names(modules, mask),
                outputs=outputs.select(mask, p),
                inputs=inputs.select(mask, q),
                cores=cores,
                ranks=tuple(min(rank, p, q) if rank and next(changed) else 0 for rank in ranks),
                norms=cores.norm(dim=(-2, -1)),
            )
        )
    return blocks


def _select_names(names: Sequence[str], mask: Tensor) -> tuple[str, ...]:
    return tuple(name for name, is_selected in zip(names, mask.tolist(), strict=True) if is_selected)


def _compute_gram(stacked: Tensor) -> Tensor:
    """Return ``XᵀX [n, R, R]`` in float64; one module at a time, so that the float64 copy stays in the cache."""
    gram = torch.empty(len(stacked), stacked.shape[-1], stacked.shape[-1], dtype=torch.float64)
    for X, out in zip(stacked, gram, strict=True):
        copy = X.double()
        torch.matmul(copy.mT, copy, out=out)
    return gram


def _slice_columns(ranks: Sequence[int]) -> list[slice | None]:
    """Return the columns of each parent in the stacked factors; None for a parent without columns."""
    ends = itertools.accumulate(ranks)
    return [slice(end - rank, end) if rank else None for rank, end in zip(ranks, ends, strict=True)]


def _compute_balance(gram_B: Tensor, gram_A: Tensor) -> tuple[Tensor, Tensor]:
    """Return X, Y [n, r, r] such that ``B X = U √S`` and ``Aᵀ Y = V √S``, where ``B A = U S Vᵀ`` is the thin SVD.

    The arguments are ``BᵀB`` and ``A Aᵀ``. With ``B = Q_B Λ Eᵀ`` from ``BᵀB``, the left singular vectors and squared
    singular values of the product are the eigenpairs of ``ΛEᵀ (A Aᵀ) EΛ``.
    """
    values, E = linalg.spectrum(gram_B)
    half = values.unsqueeze(-1) * E.mT
    S, P = linalg.spectrum(half @ gram_A @ half.mT)
    root = S.sqrt()
    X = E * linalg.inverse(values).unsqueeze(-2) @ P * root.unsqueeze(-2)
    Y = half.mT @ P * linalg.inverse(root).unsqueeze(-2)
    return X, Y
