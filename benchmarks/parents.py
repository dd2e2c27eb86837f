"""Adapters of several domains, for benchmarks that compare or compose them.

By default, base and data come from the demo's builders, and the adapters are trained first. They have rank 16 on all
linear modules and start from one initial A. The last rows of each file are held out.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import harness

from finch_hub import LoRAConfig, TrainingConfig
from finch_hub.engine import Base, ParentInput, read_examples, train


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that select the adapters."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="folder, GGUF file or Hugging Face id (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--data", type=Path, help="folder of <domain>….jsonl (default: the demo's data sets)")
    parser.add_argument(
        "--adapters", type=Path, help="folder with one PEFT folder for each domain; missing adapters are trained"
    )
    parser.add_argument("--domains", nargs="+", default=["medical", "legal", "code", "style"])
    parser.add_argument("--examples", type=int, default=120, help="rows of each domain to train on")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--foreign", action="store_true", help="train every adapter from its own initial A")
    parser.add_argument("--held-out", type=int, default=60, help="last rows of each file to measure on")
    return parser


@contextmanager
def provide_adapters(base: Base, args: argparse.Namespace) -> Iterator[list[ParentInput]]:
    """Yield the adapters with their held-out rows. Adapters that `--adapters` lacks are trained first."""
    data = args.data or harness.demo_data()
    files = {name: next(data.glob(f"{name}*.jsonl")) for name in args.domains}
    with TemporaryDirectory() as temporary:
        folder = args.adapters or Path(temporary)
        for seed, (name, file) in enumerate(files.items()):
            if not (folder / name).exists():
                _train(base, args, file, folder / name, seed)
        yield [
            ParentInput(name=name, folder=folder / name, validation=read_examples(file)[-args.held_out :])
            for name, file in files.items()
        ]


def _train(base: Base, args: argparse.Namespace, file: Path, folder: Path, seed: int) -> None:
    init = "random" if args.foreign else "shared"
    config = LoRAConfig(rank=harness.RANK, alpha=harness.ALPHA, target_modules="all-linear", init=init)
    training = TrainingConfig(
        epochs=args.epochs, batch_size=4, validation=0, learning_rate=args.learning_rate, seed=seed
    )
    rows = read_examples(file)[: -args.held_out][: args.examples]
    began = time.perf_counter()
    trained = train(base, config, training, rows)
    trained.adapter.save(folder)
    trained.adapter.detach()
    print(f"trained {folder.name} on {len(rows)} rows in {time.perf_counter() - began:.0f} s", flush=True)
