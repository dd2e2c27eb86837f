"""Each built-in preset against the default configuration, on its own domain's data set, by held-out loss.

Both sides are trained on the same rows and measured on the same held-out rows, each with its own system prompt. The
data sets are JSONL files whose names begin with the preset's (``medical….jsonl``). By default, base and data are the
demo's.

    python benchmarks/presets.py [--base FOLDER] [--data FOLDER] [--examples 200] [--held-out 60]

Prints a table and a last line of JSON: `ours` and `peer` are mean held-out losses in nats per label token. `ratio` is
the mean over the domains of the default's loss over the preset's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import harness

from finch_hub import Example, LoRAConfig, TrainingConfig
from finch_hub.engine import Base, load_base, read_examples, train
from finch_hub.plugins.catalog import load_catalog
from finch_hub.specs.reports import TokenMetrics


def measure(
    base: Base,
    data: tuple[tuple[Example, ...], tuple[Example, ...]],
    lora: LoRAConfig,
    training: TrainingConfig,
    system: str | None,
) -> tuple[TokenMetrics, float]:
    """Train one adapter. Return its held-out metrics after training, and the seconds."""
    began = time.perf_counter()
    trained = train(base, lora, training, *data, system=system)
    trained.adapter.detach()
    assert trained.report.after is not None
    return trained.report.after, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="folder, GGUF file or Hugging Face id of the base model")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--examples", type=int, default=200, help="rows of each domain to train on")
    parser.add_argument("--held-out", type=int, default=60, help="rows of each domain to measure on")
    parser.add_argument("--presets", nargs="*", help="presets to measure (default: all)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: the number of cores)")
    options = parser.parse_args()

    presets = load_catalog(entry_points=False).presets
    base = load_base(options.base or harness.demo_base())
    folder = options.data or harness.demo_data()
    print(f"{options.examples} rows to train on, {options.held_out} held out; loss in nats per label token")
    print(f"{'domain':<10}{'default':>9}{'preset':>9}{'less':>8}{'± s.e.':>9}{'default':>11}{'preset':>8}")
    rows = []
    for name in options.presets or presets:
        preset = presets[name]
        (file,) = folder.glob(f"{name}*.jsonl")
        examples = read_examples(file)
        data = examples[options.held_out :][: options.examples], examples[: options.held_out]
        threads = {"threads": options.threads} if options.threads else {}
        default, default_seconds = measure(base, data, LoRAConfig(), TrainingConfig(**threads), None)
        ours, seconds = measure(base, data, preset.lora, preset.training.evolve(**threads), preset.system)
        differences = [a - b for a, b in zip(default.example_losses, ours.example_losses, strict=True)]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        rows.append({"domain": name, "default": default.loss, "preset": ours.loss, "error": error})
        print(
            f"{name:<10}{default.loss:>9.3f}{ours.loss:>9.3f}{default.loss - ours.loss:>8.3f}{error:>9.3f}"
            f"{default_seconds:>9.0f} s{seconds:>6.0f} s",
            flush=True,
        )
    summary = {
        "name": "presets",
        "ours": statistics.fmean(row["preset"] for row in rows),
        "peer": statistics.fmean(row["default"] for row in rows),
        "ratio": statistics.fmean(row["default"] / row["preset"] for row in rows),
        "rows": rows,
        "examples": options.examples,
        "held_out": options.held_out,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
