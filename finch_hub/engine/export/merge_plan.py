"""Plan of a merge: what each adapter contributes to each of the base's tensors, and the arithmetic of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finch_hub import errors
from finch_hub.engine.export.shard_writer import BlockChange
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.float_conversion import Float32
from finch_hub.formats.lora_modules import LoRAModule
from finch_hub.formats.model_files import ModelFiles

HEAD = "lm_head.weight"
_WRITABLE = ("BF16", "F16", "F32")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """One adapter's change of one tensor: a low-rank update, or a replacement.

    Attributes:
        adapter: open folder of the adapter.
        weight: factor of the update.
        module: of the update; None for a replacement.
        is_transposed: whether the base's weight is [in, out], as embeddings and GPT-2's layers are.
        replacement: state-dict name of the replacement.
    """

    adapter: StoredAdapter
    weight: float
    module: LoRAModule | None = None
    is_transposed: bool = False
    replacement: str = ""

    @property
    def is_redefinition(self) -> bool:
        """Whether it defines the tensor instead of adding to it."""
        return self.module is None or self.module.magnitude is not None


def plan_merge(
    files: ModelFiles, adapters: Sequence[tuple[StoredAdapter, float]]
) -> dict[str, tuple[Contribution, ...]]:
    """Find the base's tensor for everything that the adapters change.

    Returns:
        The contributions by the tensor's name; also under `HEAD` if the head is tied and has no tensor of its own.

    Raises:
        Incompatible: the base has no such weight, another shape, or a dtype that nothing can be added to; all problems
            of all adapters at once.
    """
    plan: dict[str, list[Contribution]] = {}
    problems: list[errors.Problem] = []
    for adapter, weight in adapters:
        for name, shape, contribution in _contributions(adapter, weight, files):
            tensor = files.find(name)
            is_tied_head = tensor is None and name == HEAD and files.is_tied
            source = files.embedding if is_tied_head else tensor
            if source is None:
                fix = f"similar: {', '.join(near)}" if (near := errors.near(name, files.shard_of)) else ""
                problems.append(_problem(adapter, name, "the base has no such tensor", fix))
                continue
            info, earlier = files.info(source), plan.get(tensor or HEAD, [])
            if info.shape != shape:
                problems.append(_problem(adapter, name, f"is {list(shape)}, the base's {list(info.shape)}"))
            elif info.dtype not in _WRITABLE:
                problems.append(_problem(adapter, name, f"the base stores it as {info.dtype}, nothing can be added"))
            elif contribution.module and contribution.module.magnitude and contribution.is_transposed:
                problems.append(_problem(adapter, name, "DoRA on weights that are [in, out] is not supported"))
            elif contribution.is_redefinition and weight != 1.0:
                what = f"redefines the base's weight, and {weight:g} times that is not defined"
                problems.append(_problem(adapter, name, what, "use weight 1"))
            elif contribution.is_redefinition and any(other.is_redefinition for other in earlier):
                problems.append(_problem(adapter, name, "another adapter redefines this weight as well"))
            else:
                plan[tensor or HEAD] = [*earlier, contribution]
    if problems:
        raise errors.Incompatible(problems, subject=f"merging into {files.folder}")
    return {name: tuple(contributions) for name, contributions in plan.items()}


def load_change(contributions: Sequence[Contribution], shape: tuple[int, ...]) -> BlockChange:
    """Load the contributions to a tensor and return the function that changes its blocks.

    All plain low-rank updates are one product of their stacked factors.
    """
    lefts: list[Float32] = []
    rights: list[Float32] = []
    redefine: BlockChange | None = None
    for contribution in contributions:
        adapter, module = contribution.adapter, contribution.module
        if module is None:
            redefine = _replacing(contribution, shape[0])
            continue
        left, right = _scaled_factors(contribution, module)
        magnitude = adapter.magnitude(module.path)
        if magnitude is not None:
            redefine = _decomposing(left, right, magnitude)
        else:
            with np.errstate(over="ignore"):  # the writer reports results that are not finite
                lefts.append(left * np.float32(contribution.weight))
            rights.append(right)
    if not lefts and redefine is not None:
        return redefine
    left, right = np.concatenate(lefts, axis=1), np.concatenate(rights, axis=0)

    def change(values: Float32, scratch: Float32, rows: slice) -> None:
        if redefine is not None:
            redefine(values, scratch, rows)
        np.matmul(left[rows], right, out=scratch)
        np.add(values, scratch, out=values)

    return change


def _contributions(
    adapter: StoredAdapter, weight: float, files: ModelFiles
) -> list[tuple[str, tuple[int, ...], Contribution]]:
    """Return name, shape and content of everything that an adapter changes."""
    contributions: list[tuple[str, tuple[int, ...], Contribution]] = []
    for path, module in adapter.modules.items():
        # The base decides and not the config: PEFT writes fan_in_fan_out=false if it adapts the head beside Conv1D.
        is_transposed = module.embedding or (files.has_conv1d and f"{path}.weight" != HEAD)
        contribution = Contribution(adapter=adapter, weight=weight, module=module, is_transposed=is_transposed)
        shape = (module.outputs, module.inputs)[:: -1 if is_transposed else 1]
        contributions.append((f"{path}.weight", shape, contribution))
    for name, stored in adapter.replaced.items():
        shape = adapter.file.tensors[stored].shape
        contributions.append((name, shape, Contribution(adapter=adapter, weight=weight, replacement=name)))
    return contributions


def _problem(adapter: StoredAdapter, where: str, what: str, fix: str = "") -> errors.Problem:
    return errors.Problem(where=f"{adapter.folder.name}: {where}", what=what, fix=fix)


def _scaled_factors(contribution: Contribution, module: LoRAModule) -> tuple[Float32, Float32]:
    """Return left ``[rows, r]`` with the scale and right ``[r, columns]``, oriented as the weight."""
    a, b = contribution.adapter.factors(module.path)
    left, right = (a.T, b.T) if contribution.is_transposed else (b, a)
    return np.ascontiguousarray(left) * np.float32(module.scale), np.ascontiguousarray(right)


def _decomposing(left: Float32, right: Float32, magnitude: Float32) -> BlockChange:
    def change(values: Float32, scratch: Float32, rows: slice) -> None:
        np.matmul(left[rows], right, out=scratch)
        np.add(values, scratch, out=values)
        norms = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
        values *= (magnitude[rows] / norms).astype(np.float32)[:, None]  # the writer reports a row of zeros

    return change


def _replacing(contribution: Contribution, num_rows: int) -> BlockChange:
    name = contribution.adapter.replaced[contribution.replacement]
    replacement = contribution.adapter.tensor(name).reshape(num_rows, -1)

    def change(values: Float32, scratch: Float32, rows: slice) -> None:
        values[...] = replacement[rows]

    return change
