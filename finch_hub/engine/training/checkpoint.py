"""Checkpoints of a training: complete, whole or absent, and never taken for those of other work.

Each is a folder ``step-00000042`` with ``state.safetensors`` and ``state.json``. It is written under a temporary name,
synced to the disk and renamed; ``state.json`` holds the tensors' hash and its own, so that a truncated or altered
checkpoint is found out and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from finch_hub import errors

_TENSORS, _STATE = "state.safetensors", "state.json"
_PREFIX, _UNFINISHED = "step-", ".unfinished-"


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """What a training needs to go on as if it had never stopped.

    Attributes:
        step: optimiser steps done.
        identity: names the work (data, specification, base, what else bytes depend on); resumed by the same only.
        state: plain data of the loop.
        tensors: parameters, moments, best parameters.

    """

    step: int
    identity: Mapping[str, str]
    state: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint into the folder, and remove all but the newest `keep`.

    Raises:
        OSError: the disk is full, and so on; older checkpoints are left as they were.

    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{_PREFIX}{checkpoint.step:08d}"
    unfinished = folder / f"{_UNFINISHED}{final.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        data = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in checkpoint.tensors.items()})
        _write(unfinished / _TENSORS, data)
        body = {
            "step": checkpoint.step,
            "identity": dict(checkpoint.identity),
            "state": dict(checkpoint.state),
            "tensors_sha256": hashlib.sha256(data).hexdigest(),
        }
        _write(unfinished / _STATE, _canonical({**body, "sha256": _hash(body)}))
        _sync(unfinished)
        if final.exists():  # of an attempt that was interrupted at this very step; ours holds the same
            shutil.rmtree(final)
        unfinished.rename(final)
        _sync(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in _steps(folder)[keep:]:
        shutil.rmtree(old)
    return final


def newest(folder: Path, identity: Mapping[str, str]) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, None if there is none, and what is wrong with those passed over.

    Raises:
        InvalidCheckpoint: it belongs to other work; says what differs.

    """
    damaged: list[str] = []
    for path in _steps(folder):
        try:
            checkpoint = _load(path)
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            damaged.append(f"{path.name} is damaged ({error})")
            continue
        changed = sorted(
            name
            for name in identity.keys() | checkpoint.identity.keys()
            if identity.get(name) != checkpoint.identity.get(name)
        )
        if changed:
            raise errors.InvalidCheckpoint(
                f"the checkpoint {path} belongs to other work: {', '.join(changed)} changed since; "
                "start in another work directory, or remove it to begin anew"
            )
        return checkpoint, damaged
    return None, damaged


def _steps(folder: Path) -> list[Path]:
    """List the finished checkpoints, newest first."""
    return sorted(folder.glob(f"{_PREFIX}*"), reverse=True) if folder.is_dir() else []


def _load(path: Path) -> Checkpoint:
    body = json.loads((path / _STATE).read_bytes())
    if body.pop("sha256") != _hash(body):
        raise ValueError(f"{_STATE} is not what was written")
    data = (path / _TENSORS).read_bytes()
    if hashlib.sha256(data).hexdigest() != body["tensors_sha256"]:
        raise ValueError(f"{_TENSORS} is not what was written")
    return Checkpoint(
        step=body["step"], identity=body["identity"], state=body["state"], tensors=safetensors.torch.load(data)
    )


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True).encode()


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body)).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
