"""Identity of a training, by which a checkpoint of a different training is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.engine.training import environment
from finch_hub.specs.training import TrainingConfig


def identify_training(
    base: Base,
    adapter: AttachableAdapter,
    training: TrainingConfig,
    train_set: Sequence[TokenizedExample],
    held_out: Sequence[TokenizedExample],
    surroundings: Mapping[str, str | int],
) -> dict[str, str]:
    """Return hashes of everything that the result's bytes depend on, by parts, so that a refusal names the part."""
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
