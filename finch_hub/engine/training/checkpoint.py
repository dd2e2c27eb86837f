"""Checkpoint files of a training, each with the state that a resume restores.

A checkpoint is a folder such as ``step-00000042`` with ``state.safetensors`` and ``state.json``. It is written under a
temporary name, synced to the disk and renamed. ``state.json`` contains hashes of both files, so a truncated or altered
checkpoint is detected and the previous one is used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import safetensors
import safetensors.torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.training.data import TrainingData
from finch_hub.engine.training.resume_state import ResumeState, TrainingProgress
from finch_hub.formats.atomic_writes import flush_path
from finch_hub.specs.evidence import LossCurve
from finch_hub.specs.training import TrainingConfig

Environment: TypeAlias = Mapping[str, str | int]
"""Everything beside a training that its bytes depend on; see `environment.describe`."""

_TENSORS, _STATE = "state.safetensors", "state.json"
_PREFIX, _UNFINISHED = "step-", ".unfinished-"
_OPTIMIZER, _BEST = "=", "best."  # prefixes of the tensors' names


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What a folder has for a training.

    Attributes:
        state: state of the newest complete checkpoint, None if there is none, or if it is of a different training.
        damaged: problems of newer ones, which are skipped.
        changed: parts of the identity in which a different training differs.
        difference: what changed in the environment since the checkpoint was written, in words.
        path: the checkpoint.
    """

    state: ResumeState | None = None
    damaged: Sequence[str] = ()
    changed: Sequence[str] = ()
    difference: str = ""
    path: Path | None = None


def identify_training(
    base: Base, adapter: AttachableAdapter, training: TrainingConfig, data: TrainingData
) -> dict[str, str]:
    """Return hashes of all parts of a training but its environment, so that a refusal names the part."""
    examples = hashlib.sha256()
    for part in (data.train_set, data.held_out):
        for example in part:
            examples.update(len(example).to_bytes(8, "little") + example.input_ids.tobytes() + example.labels.tobytes())
        examples.update(b"|")
    start = hashlib.sha256()
    for name, parameter in sorted(adapter.parameters().items()):
        start.update(name.encode() + parameter.detach().cpu().numpy().tobytes())
    settings = training.model_dump_json(exclude={"keep_checkpoints", "checkpoint_every", "threads", "samples"})
    return {
        "data": examples.hexdigest(),
        "specification": hashlib.sha256((settings + adapter.config.model_dump_json()).encode()).hexdigest(),
        "initial adapter": start.hexdigest(),
        "base": base.fingerprint,
    }


def save(folder: Path, state: ResumeState, *, identity: Mapping[str, str], environment: Environment, keep: int) -> Path:
    """Write a checkpoint into the folder, and remove all but the newest `keep`.

    Only a training of the same identity resumes from it. If it cannot be written, older checkpoints stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{_PREFIX}{state.progress.step:08d}"
    unfinished = folder / f"{_UNFINISHED}{final.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        tensors = {f"{_OPTIMIZER}{name}": tensor for name, tensor in state.optimizer.items()}
        tensors |= {f"{_BEST}{number}": tensor for number, tensor in enumerate(state.best_parameters)}
        data = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        (unfinished / _TENSORS).write_bytes(data)
        body = {
            "step": state.progress.step,
            "identity": dict(identity),
            "environment": dict(environment),
            "state": state.progress.model_dump(mode="json", exclude_defaults=True),
            "curve": state.curve.model_dump(mode="json", exclude_defaults=True),
            "tensors_sha256": hashlib.sha256(data).hexdigest(),
        }
        (unfinished / _STATE).write_bytes(_to_json({**body, "sha256": _hash(body)}))
        for path in (unfinished / _TENSORS, unfinished / _STATE, unfinished):
            flush_path(path)
        if final.exists():  # an attempt that was interrupted at this step left the same state
            _remove(final)
        unfinished.rename(final)
        flush_path(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in list_checkpoints(folder)[keep:]:
        _remove(old)
    return final


def load_newest(folder: Path, *, identity: Mapping[str, str], environment: Environment) -> Found:
    """Look for the newest complete checkpoint.

    One that was written in another environment serves as well, and its state says so: the mathematics is the same,
    but rounding may differ.
    """
    damaged: list[str] = []
    for path in list_checkpoints(folder):
        try:
            body, tensors = _read(path)
            progress = TrainingProgress.of(body["state"])
            curve = LossCurve.of_stored(body.get("curve", {}))  # earlier versions kept none
            known = dict(body["identity"])
            # Checkpoints of older versions have a hash of the environment only.
            written_in = body.get("environment") or (environment if known["environment"] == _hash(environment) else {})
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError, errors.InvalidSpec) as error:
            damaged.append(f"{path.name} is damaged ({error})")
            continue
        known.pop("environment", None)
        changed = sorted(name for name in identity.keys() | known.keys() if identity.get(name) != known.get(name))
        if changed:
            return Found(damaged=damaged, changed=changed, path=path)
        if difference := _compare(written_in, environment):
            text = f"after step {progress.step}: {difference}"
            progress = progress.evolve(continued=(*progress.continued, text))
        state = ResumeState(
            progress=progress,
            optimizer={
                name.removeprefix(_OPTIMIZER): tensor for name, tensor in tensors.items() if name.startswith(_OPTIMIZER)
            },
            best_parameters=tuple(tensors[name] for name in sorted(tensors) if name.startswith(_BEST)),
            curve=curve,
        )
        return Found(damaged=damaged, state=state, difference=difference, path=path)
    return Found(damaged=damaged)


def discard(folder: Path) -> None:
    """Remove all checkpoints of the folder."""
    for path in list_checkpoints(folder):
        _remove(path)


def _compare(written_in: Environment, environment: Environment) -> str:
    """Return what changed from one environment to another, nothing if they are equal."""
    names = sorted(written_in.keys() | environment.keys())
    changes = [(name, written_in.get(name, "unknown"), environment.get(name, "unknown")) for name in names]
    return ", ".join(f"{name} {before} -> {now}" for name, before, now in changes if before != now)


def list_checkpoints(folder: Path | None) -> list[Path]:
    """List the finished checkpoints, newest first."""
    return sorted(folder.glob(f"{_PREFIX}*"), reverse=True) if folder is not None and folder.is_dir() else []


def _remove(path: Path) -> None:
    """Remove a checkpoint. It is renamed first, so that whoever copies it meanwhile sees all files or none."""
    aside = path.with_name(f"{_UNFINISHED}removed-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)
    shutil.rmtree(aside)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    body = json.loads((path / _STATE).read_bytes())
    if body.pop("sha256") != _hash(body):
        raise ValueError(f"{_STATE} was changed after it was written")
    data = (path / _TENSORS).read_bytes()
    if hashlib.sha256(data).hexdigest() != body["tensors_sha256"]:
        raise ValueError(f"{_TENSORS} was changed after it was written")
    return body, safetensors.torch.load(data)


def _to_json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True).encode()


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_to_json(body)).hexdigest()
