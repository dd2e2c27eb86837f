"""Which work a checkpoint belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.loading import Base
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.engine.training import environment
from finch_hub.specs.training import TrainingConfig


def of(
    base: Base,
    adapter: AttachableAdapter,
    training: TrainingConfig,
    train_set: Sequence[TokenizedExample],
    held_out: Sequence[TokenizedExample],
    surroundings: Mapping[str, Any],
) -> dict[str, str]:
    """Name all that the bytes of the result depend on, by parts, so that a refusal can say which one changed."""
    data = hashlib.sha256()
    for part in (train_set, held_out):
        for example in part:
            data.update(len(example).to_bytes(8, "little") + example.input_ids.tobytes() + example.labels.tobytes())
        data.update(b"|")
    start = hashlib.sha256()
    for name, parameter in sorted(adapter.parameters().items()):
        start.update(name.encode() + parameter.detach().cpu().numpy().tobytes())
    settings = training.model_dump_json(exclude={"keep_checkpoints", "checkpoint_every"})
    return {
        "data": data.hexdigest(),
        "specification": hashlib.sha256((settings + adapter.config.model_dump_json()).encode()).hexdigest(),
        "initial adapter": start.hexdigest(),
        "base": base.fingerprint,
        "environment": environment.digest(surroundings),
    }
