"""Merge of adapters into their base's weights, shard by shard.

Memory holds one module's factors and a block of rows for each thread, however large the model is.
Importing torch would take longer than the work.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finch_hub import errors
from finch_hub.artifacts.cards.model_card import write_merged_card
from finch_hub.engine.export.merge_plan import HEAD, Contribution, load_change, plan_merge
from finch_hub.engine.export.parameters import MergedParameters
from finch_hub.engine.export.shard_writer import OutputTensor, Progress, ShardWriter
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.formats.atomic_writes import atomic_folder, check_replaceable
from finch_hub.formats.finch_record import read_name, read_record, write_record
from finch_hub.formats.model_files import INDEX, ModelFiles
from finch_hub.specs.addresses import strip_credentials
from finch_hub.specs.reports import MergeReport

KIND = "merged model"
_SOURCES = frozenset({"_name_or_path", "name_or_path"})


def export_merged(adapter: Path, base: Path | None, out: Path, parameters: MergedParameters) -> dict[str, Any]:
    """Write one adapter's merged model, as an export format.

    Raises:
        Incompatible: the base is missing; for others see :func:`merge`.
    """
    if base is None:
        raise errors.Incompatible("a merged model needs its base's weights")
    adapters = [(adapter, parameters.weight)]
    report = merge(base, adapters, out, base_model=parameters.base_model, replace=parameters.replace)
    return {"modules": report.modules, "bytes": report.bytes_written, "seconds": report.seconds}


def merge(
    base: Path,
    adapters: Sequence[tuple[Path, float]],
    out: Path,
    *,
    base_model: str | None = None,
    replace: bool = False,
    progress: Progress | None = None,
) -> MergeReport:
    """Write the base with the adapters folded in as a standalone model folder.

    Each adapted weight becomes ``W' + Σ_t w_t s_t B_t A_t``. ``W'`` is W, or the redefinition of one adapter. A DoRA
    adapter (arXiv 2402.09353) redefines W as ``m (W + s B A) / ‖W + s B A‖`` with the norm of each row. A module that
    is stored whole replaces W. The result is computed in float32 and rounded once to the base's dtype. Shards, index
    and all other tensors stay as they are. An adapter on the head or the embeddings of a tied model unties the two.

    Args:
        base: folder of the base model.
        adapters: folders in PEFT's format, also quantized ones, and their weights.
        out: folder to write; it appears only when it is complete.
        base_model: the base's public name for the model card, if it has one.
        replace: replace an earlier merge at `out`.
        progress: called with the bytes done and the total bytes, from any thread.

    Returns:
        The report, without the comparison of logits (see `finch_hub.engine.export.verification`).

    Raises:
        NotFound: a folder or file is missing.
        InvalidInput: shards are missing or damaged, a weight is not finite, or no adapter is given.
        Incompatible: adapters do not fit the base, with all problems at once; or the result is not finite.
        Conflict: `out` exists and may not be replaced.
        Unavailable: the disk is full or `out` cannot be written.
    """
    begin = time.perf_counter()
    _check_weights(adapters)
    check_replaceable(out, kind=KIND, replace=replace)
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(ModelFiles(base))
        opened = [(stack.enter_context(StoredAdapter(folder)), weight) for folder, weight in adapters]
        plan = plan_merge(files, opened)
        untie = files.is_tied and any(name in plan for name in (HEAD, files.embedding))
        shards = {name: _lay_out(files, name, plan, untie=untie) for name in files.shards}
        total = sum(tensor.source.nbytes for tensors in shards.values() for tensor in tensors.values())
        _check_free_space(out, total)
        folder = stack.enter_context(atomic_folder(out, kind=KIND, replace=replace))
        writer = stack.enter_context(ShardWriter(total, progress))
        for name, tensors in shards.items():
            writer.write(files.shards[name], folder / name, tensors)
        _write_companions(files, folder, shards, total, untie=untie)
        parents = [
            {"name": read_name(path), "identity": read_record(path).get("identity"), "weight": weight}
            for path, weight in adapters
        ]
        card = write_merged_card(base_model or files.folder.name, parents, base_model)
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_record(folder, KIND, {"base": base_model, "adapters": parents})
    return MergeReport(
        out=str(out), modules=len(plan), bytes_written=total, seconds=round(time.perf_counter() - begin, 3)
    )


def _check_weights(adapters: Sequence[tuple[Path, float]]) -> None:
    problems = [
        errors.Problem(where=str(folder), what=f"weight {weight} is not finite")
        for folder, weight in adapters
        if not np.isfinite(weight)
    ]
    if not adapters:
        problems.append(errors.Problem(what="no adapter is given", fix="give at least one"))
    if problems:
        raise errors.InvalidInput(problems, subject="merge")


def _check_free_space(out: Path, needed: int) -> None:
    parent = next(folder for folder in Path(out).absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        what = f"could not write {out}: it takes {needed:,} bytes, but {parent} has {free:,} free"
        raise errors.Unavailable(f"{what} (free some space there, or choose another path)")


def _lay_out(
    files: ModelFiles, shard: str, plan: Mapping[str, Sequence[Contribution]], *, untie: bool
) -> dict[str, OutputTensor]:
    """Return the tensors of one shard; an untied head is added to the embeddings' shard."""
    sources = dict(files.shards[shard].tensors)
    if untie and HEAD not in files.shard_of and files.embedding in sources:
        sources[HEAD] = sources[files.embedding]
    return {
        name: OutputTensor(
            source=info, load_change=functools.partial(load_change, plan[name], info.shape) if name in plan else None
        )
        for name, info in sources.items()
    }


def _write_companions(
    files: ModelFiles, folder: Path, shards: Mapping[str, Iterable[str]], total: int, *, untie: bool
) -> None:
    """Write the other files of the model; `shards` has the names of each shard's tensors."""
    for inside in files.companions():
        target = folder / inside
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(files.folder / inside, target)
    _rewrite(folder / "config.json", {"tie_word_embeddings": False} if untie else {})
    if (folder / "tokenizer_config.json").is_file():
        _rewrite(folder / "tokenizer_config.json", {})
    if files.index is not None:
        metadata = {**(files.index.get("metadata") or {}), "total_size": total}
        weight_map = dict(sorted((name, shard) for shard, tensors in shards.items() for name in tensors))
        index = json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2)
        (folder / INDEX).write_text(index + "\n", encoding="utf-8")


def _rewrite(file: Path, changes: Mapping[str, Any]) -> None:
    """Apply changes to a JSON file, and remove the names of code, which is not copied and would be looked for.

    The address of the base loses its credentials.
    """
    before = json.loads(file.read_bytes())
    after = {name: value for name, value in {**before, **changes}.items() if name != "auto_map"}
    for name in _SOURCES & after.keys():
        if isinstance(after[name], str):
            after[name] = strip_credentials(after[name])
    if after != before:
        file.write_text(json.dumps(after, indent=2) + "\n", encoding="utf-8")
