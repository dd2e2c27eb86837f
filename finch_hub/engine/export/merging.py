"""Adapters folded into their base's weights, streamed from safetensors shard to safetensors shard.

Nothing larger than a block of rows and one module's factors is held, so a 7B model takes the memory of a small one;
torch is not imported, which would cost more than the work.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finch_hub import errors
from finch_hub.engine.export import shard_writer
from finch_hub.engine.export.shard_writer import Change, Piece
from finch_hub.formats import staging
from finch_hub.formats.adapter_folder import Module, StoredAdapter
from finch_hub.formats.model_files import INDEX, CheckpointFiles
from finch_hub.formats.safetensors_header import TensorInfo
from finch_hub.formats.tensor_file import Float32
from finch_hub.specs.reports import MergeReport

KIND = "merged model"
HEAD = "lm_head.weight"
_WRITABLE = ("BF16", "F16", "F32")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_SAFE = re.compile(r"[^A-Za-z0-9_./-]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What one adapter changes in one tensor, by weight: a low-rank update of a module, or another tensor instead."""

    adapter: StoredAdapter
    weight: float
    module: Module | None = None
    replacement: str = ""

    @property
    def redefines(self) -> bool:
        """Whether it says what the tensor is, and not what is added to it."""
        return self.module is None or self.module.magnitude is not None


def merge(
    base: Path,
    adapters: Sequence[tuple[Path, float]],
    out: Path,
    *,
    base_model: str | None = None,
    replace: bool = False,
    progress: shard_writer.Progress | None = None,
) -> MergeReport:
    """Write the base with the adapters folded in as a standalone model folder.

    Each adapted weight becomes ``W' + Σ_t w_t s_t B_t A_t``, where ``W'`` is W itself, or what the one adapter that
    redefines it makes of it: a DoRA adapter (arXiv 2402.09353) ``m (W + s B A) / ‖W + s B A‖`` with the norm of each
    row, a tensor that is stored whole that tensor. Computed in float32, rounded once to the base's dtype. Shards,
    their index and all other tensors stay as they are; an adapter on the head or the embeddings of a model that ties
    the two unties them. The folder appears under its name only when it is whole.

    Args:
        base: folder of the base model.
        adapters: folders in PEFT's format (also quantised ones) and their weights.
        out: folder to write.
        base_model: the base's name for the model card, where it has a public one.
        replace: replace an earlier merge at `out`.
        progress: called with the bytes done and the bytes in all, from any thread.

    Returns:
        The report, without the comparison of logits, which `finch_hub.engine.export.verification` makes.

    Raises:
        NotFound: a folder or file is missing.
        InvalidInput: shards are missing or damaged, weights are not finite or none is given.
        Incompatible: adapters do not fit the base, with all problems at once; or the result is not finite.
        Conflict: `out` exists and may not be replaced.
        Unavailable: the disk is full or `out` cannot be written.

    """
    begin = time.perf_counter()
    _check_weights(adapters)
    staging.check_target(out, kind=KIND, replace=replace)
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(CheckpointFiles(base))
        opened = [(stack.enter_context(StoredAdapter(folder)), weight) for folder, weight in adapters]
        updates = plan(files, opened)
        untie = files.tied and any(name in updates for name in (HEAD, files.embedding))
        shards = {name: _pieces(files, name, updates, untie=untie) for name in files.shards}
        total = sum(piece.nbytes for pieces in shards.values() for piece in pieces.values())
        _check_room(out, total)
        folder = stack.enter_context(staging.staged(out, kind=KIND, replace=replace))
        pool = stack.enter_context(shard_writer.Pool(total, progress))
        for name, pieces in shards.items():
            shard_writer.write(pool, files.shards[name], folder / name, pieces)
        _write_companions(files, folder, shards, untie=untie)
        parts = [{**_known(adapter), "weight": weight} for adapter, weight in opened]
        _write_card(folder, base_model or files.folder.name, parts, base_model)
        staging.write_record(folder, KIND, {"base": base_model, "adapters": parts})
    return MergeReport(
        out=str(out), modules=len(updates), bytes_written=total, seconds=round(time.perf_counter() - begin, 3)
    )


def plan(files: CheckpointFiles, adapters: Sequence[tuple[StoredAdapter, float]]) -> dict[str, tuple[Update, ...]]:
    """Find the checkpoint's tensor for everything the adapters change.

    Returns:
        The updates by the tensor's name; `HEAD` too where the head is tied and has no tensor of its own.

    Raises:
        Incompatible: modules without a weight in the base, of another shape or of a dtype that cannot be added to;
            all problems of all adapters at once.

    """
    found: dict[str, list[Update]] = {}
    problems: list[errors.Problem] = []
    for adapter, weight in adapters:
        wanted: list[tuple[str, tuple[int, ...], Update]] = []
        for path, module in adapter.modules.items():
            across = _lies_across(adapter, module)
            shape: tuple[int, ...] = adapter.shape(path)[:: -1 if across else 1]
            if module.magnitude is not None and across:
                problems.append(_problem(adapter, path, "DoRA on weights that lie [in, out] is not supported"))
            wanted.append((f"{path}.weight", shape, Update(adapter=adapter, weight=weight, module=module)))
        for name, stored in adapter.replaced.items():
            shape = adapter.file.tensors[stored].shape
            wanted.append((name, shape, Update(adapter=adapter, weight=weight, replacement=name)))
        for name, shape, change in wanted:
            tensor = files.find(name)
            source = files.embedding if tensor is None and name == HEAD and files.tied else tensor
            if source is None:
                near = errors.near(name, files.shard_of)
                problems.append(_problem(adapter, name, "the base has no such tensor", f"near: {', '.join(near)}"))
                continue
            info = files.info(source)
            if info.shape != shape:
                problems.append(_problem(adapter, name, f"is {list(shape)}, the base's {list(info.shape)}"))
            elif info.dtype not in _WRITABLE:
                problems.append(_problem(adapter, name, f"the base stores it as {info.dtype}, nothing can be added"))
            elif change.redefines and weight != 1.0:
                what = f"redefines the base's weight, and {weight:g} times that is not defined"
                problems.append(_problem(adapter, name, what, "give weight 1"))
            elif change.redefines and any(earlier.redefines for earlier in found.get(tensor or HEAD, ())):
                problems.append(_problem(adapter, name, "another adapter redefines this weight as well"))
            else:
                found.setdefault(tensor or HEAD, []).append(change)
    if problems:
        raise errors.Incompatible(problems, subject=f"merging into {files.folder}")
    return {name: tuple(changes) for name, changes in found.items()}


def _problem(adapter: StoredAdapter, where: str, what: str, fix: str = "") -> errors.Problem:
    return errors.Problem(where=f"{adapter.folder.name}: {where}", what=what, fix=fix)


def _check_weights(adapters: Sequence[tuple[Path, float]]) -> None:
    problems = [
        errors.Problem(where=str(folder), what=f"weight {weight} is not finite")
        for folder, weight in adapters
        if not np.isfinite(weight)
    ]
    if not adapters:
        problems.append(errors.Problem(what="no adapter is given", fix="name at least one"))
    if problems:
        raise errors.InvalidInput(problems, subject="merge")


def _check_room(out: Path, needed: int) -> None:
    place = next(folder for folder in Path(out).absolute().parents if folder.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise errors.Unavailable(f"{out}: the model takes {needed:,} bytes, {place} has {free:,} free; nothing written")


def _pieces(
    files: CheckpointFiles, shard: str, updates: Mapping[str, Sequence[Update]], *, untie: bool
) -> dict[str, Piece]:
    """Lay out one shard as it was, with a head of its own in the embeddings' shard if it is to be untied."""
    named = dict(files.shards[shard].tensors)
    if untie and HEAD not in files.shard_of and files.embedding in named:
        named[HEAD] = named[files.embedding]
    return {
        name: Piece(source=info, change=_change_of(updates[name], info) if name in updates else None)
        for name, info in named.items()
    }


def _change_of(updates: Sequence[Update], info: TensorInfo) -> Callable[[], Change]:
    return lambda: _change(updates, info.shape)


def _change(updates: Sequence[Update], shape: tuple[int, ...]) -> Change:
    """Load what changes one tensor and return the function that changes its blocks.

    All plain low-rank updates act at once, as one product of their stacked factors.
    """
    lefts: list[Float32] = []
    rights: list[Float32] = []
    whole: Change | None = None
    for update in updates:
        if update.module is None:
            whole = _replacing(update, shape[0])
            continue
        left, right = _factors(update.adapter, update.module)
        magnitude = update.adapter.magnitude(update.module.path)
        if magnitude is not None:
            whole = _decomposed(left, right, magnitude)
        else:
            with np.errstate(over="ignore"):  # what is not finite is found in the result
                lefts.append(left * np.float32(update.weight))
            rights.append(right)
    if not lefts and whole is not None:
        return whole
    left, right = np.concatenate(lefts, axis=1), np.concatenate(rights, axis=0)

    def change(values: Float32, scratch: Float32, rows: slice) -> None:
        if whole is not None:
            whole(values, scratch, rows)
        np.matmul(left[rows], right, out=scratch)
        np.add(values, scratch, out=values)

    return change


def _lies_across(adapter: StoredAdapter, module: Module) -> bool:
    """Whether the weight is stored ``[in, out]``, as embeddings and GPT-2's layers are."""
    return module.embedding or bool(adapter.config.get("fan_in_fan_out"))


def _factors(adapter: StoredAdapter, module: Module) -> tuple[Float32, Float32]:
    """Return left ``[rows, r]``, with the scale in it, and right ``[r, columns]`` of the update as the weight lies."""
    a, b = adapter.factors(module.path)
    left, right = (a.T, b.T) if _lies_across(adapter, module) else (b, a)
    return np.ascontiguousarray(left) * np.float32(module.scale), np.ascontiguousarray(right)


def _decomposed(left: Float32, right: Float32, magnitude: Float32) -> Change:
    def change(values: Float32, scratch: Float32, rows: slice) -> None:
        np.matmul(left[rows], right, out=scratch)
        np.add(values, scratch, out=values)
        norms = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
        values *= (magnitude[rows] / norms).astype(np.float32)[:, None]  # a row of zeros becomes not finite: reported

    return change


def _replacing(update: Update, rows: int) -> Change:
    whole = update.adapter.replacement(update.replacement).reshape(rows, -1)

    def change(values: Float32, scratch: Float32, rows: slice) -> None:
        values[...] = whole[rows]

    return change


def _write_companions(
    files: CheckpointFiles, folder: Path, shards: Mapping[str, Mapping[str, Piece]], *, untie: bool
) -> None:
    for inside in files.companions():
        target = folder / inside
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(files.folder / inside, target)
    if untie:
        config = {**files.config, "tie_word_embeddings": False}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if files.index is not None:
        metadata = dict(files.index.get("metadata") or {})
        metadata["total_size"] = sum(piece.nbytes for pieces in shards.values() for piece in pieces.values())
        weight_map = {name: shard for shard, pieces in shards.items() for name in pieces}
        (folder / INDEX).write_text(
            json.dumps({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}, indent=2) + "\n",
            encoding="utf-8",
        )


def _known(adapter: StoredAdapter) -> dict[str, Any]:
    """Return an adapter's name and identity as its ``finch.json`` has them; without one its folder is its name."""
    return {"name": staging.name_of(adapter.folder), "identity": staging.record_of(adapter.folder).get("identity")}


def _write_card(folder: Path, base: str, adapters: Sequence[Mapping[str, Any]], public: str | None) -> None:
    """Write the model card; only names that are harmless as text of the Hub's metadata get into it."""
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if public is not None and _HUB_NAME.fullmatch(public):
        lines += [f"base_model: {public}", "base_model_relation: merge"]
    lines += ["tags:", "- merge", "- lora"]
    parts = "\n".join(f"- `{_SAFE.sub('_', part['name'])}`, weight {part['weight']:g}" for part in adapters)
    name = _SAFE.sub("_", base)
    text = (
        f"# {name} with {len(adapters)} LoRA {'adapter' if len(adapters) == 1 else 'adapters'} merged\n\n"
        f"Written by Finch Hub: the weights of `{name}` with these updates added, in the base's dtype.\n\n{parts}\n"
    )
    (folder / "README.md").write_text("---\n" + "\n".join(lines) + "\n---\n\n" + text, encoding="utf-8")
