"""State of the process that the calls of the engine find, and leave as it was."""

from __future__ import annotations

import logging
import os
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.training import lessons

from finch_hub import engine
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

LORA = LoRAConfig(rank=4, alpha=8.0, target_modules="all-linear")
QUICK = TrainingConfig(epochs=1, batch_size=4, learning_rate=5e-3, threads=1, validation=0.2)


def read_state() -> dict[str, Any]:
    """Return what a library could change in the process of its caller."""
    loggers = ["", *(name for name in ("torch", "transformers", "peft", "finch_hub"))]
    return {
        "torch's generator": torch.random.get_rng_state().tolist(),
        "torch's dtype": torch.get_default_dtype(),
        "torch's threads": torch.get_num_threads(),
        "torch's gradients": torch.is_grad_enabled(),
        "torch's algorithms": torch.are_deterministic_algorithms_enabled(),
        "Python's generator": random.getstate(),
        "NumPy's generator": repr(np.random.get_state(legacy=True)),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "logging": [(logging.getLogger(name).level, len(logging.getLogger(name).handlers)) for name in loggers],
    }


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter. What is imported on the way has changed the state once, as imports may."""
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    base = engine.load_base(tiny_folder)
    engine.train(base, LORA, QUICK, lessons(12)).adapter.save(folder)
    return folder


def train(base: Path, adapter: Path, out: Path) -> None:
    engine.train(engine.load_base(base), LORA, QUICK, lessons(12))


def generate(base: Path, adapter: Path, out: Path) -> None:
    model = engine.GeneratorModel(base)
    model.load_lora(adapter, "birds")
    model.generate("What does a finch eat?", adapter="birds", max_new_tokens=4, temperature=1.0)


def merge(base: Path, adapter: Path, out: Path) -> None:
    engine.merge(base, [(adapter, 1.0)], out)
    engine.verify_merge(base, [(adapter, 1.0)], out)


@pytest.mark.parametrize("call", [train, generate, merge])
def test_call_restores_the_state_of_its_process(
    call: Callable[[Path, Path, Path], None], tiny_folder: Path, trained: Path, tmp_path: Path
) -> None:
    call(tiny_folder, trained, tmp_path / "first")  # imports
    before = read_state()
    call(tiny_folder, trained, tmp_path / "second")
    after = read_state()
    assert {name: value for name, value in after.items() if value != before[name]} == {}
