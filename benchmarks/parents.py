"""Adapters of several domains for benchmarks that take more than one: given, or trained first and kept.

Base and data come from the demo's builders unless given. Adapters are rank 16 on all linear modules, from one initial A
unless asked otherwise; the last rows of each file are held out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import harness

from finch_hub.engine.bases.base import Base
from finch_hub.engine.composition.parents import ParentInput
from finch_hub.engine.data.reading import read_examples
from finch_hub.engine.training.loop import train
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that say which adapters are meant."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--base", help="folder, GGUF file or Hugging Face id; SmolLM2-135M-Instruct unless given")
    found.add_argument("--data", type=Path, help="folder of <domain>….jsonl; the demo's sets unless given")
    found.add_argument("--adapters", type=Path, help="folder with one PEFT folder a domain; those missing are trained")
    found.add_argument("--domains", nargs="+", default=["medical", "legal", "code", "style"])
    found.add_argument("--examples", type=int, default=120, help="rows to train on, of each")
    found.add_argument("--epochs", type=int, default=1)
    found.add_argument("--learning-rate", type=float, default=1e-3)
    found.add_argument("--foreign", action="store_true", help="train every adapter from an initial A of its own")
    found.add_argument("--held-out", type=int, default=60, help="last rows of each file, to measure on")
    return found


@contextmanager
def made(base: Base, given: argparse.Namespace) -> Iterator[list[ParentInput]]:
    """Yield the adapters with the rows that they are held against; what `--adapters` lacks is trained first."""
    data = given.data or harness.demo_data()
    files = {name: next(data.glob(f"{name}*.jsonl")) for name in given.domains}
    with TemporaryDirectory() as temporary:
        folder = given.adapters or Path(temporary)
        for seed, (name, file) in enumerate(files.items()):
            if not (folder / name).exists():
                _train(base, given, file, folder / name, seed)
        yield [
            ParentInput(name=name, folder=folder / name, validation=read_examples(file)[-given.held_out :])
            for name, file in files.items()
        ]


def _train(base: Base, given: argparse.Namespace, file: Path, folder: Path, seed: int) -> None:
    init = "random" if given.foreign else "shared"
    config = LoRAConfig(rank=harness.RANK, alpha=harness.ALPHA, target_modules="all-linear", init=init)
    training = TrainingConfig(
        epochs=given.epochs, batch_size=4, validation=0, learning_rate=given.learning_rate, seed=seed
    )
    rows = read_examples(file)[: -given.held_out][: given.examples]
    began = time.perf_counter()
    trained = train(base, config, training, rows)
    trained.adapter.save(folder)
    trained.adapter.detach()
    print(f"trained {folder.name} on {len(rows)} rows in {time.perf_counter() - began:.0f} s", flush=True)
