"""An adapter on the top third of the layers, three epochs: with what lies below remembered, and without.

Both are ours; in both, nothing below the first adapted layer is differentiated.

    python benchmarks/train_top_layers.py [--examples 96] [--epochs 3] [--repeat 3]

`ratio` is tokens/s with the memory over tokens/s without it, `loss` the relative difference of the held-out losses.
"""

from __future__ import annotations

import argparse

import harness

from finch_hub.engine.decoder.decoder import choose_decoder
from finch_hub.engine.rank.automatic import attach_for_training
from finch_hub.engine.training import environment, loop
from finch_hub.engine.training.data import TrainingData
from finch_hub.engine.training.progress import ProgressReporter
from finch_hub.engine.training.run import TrainingRun
from finch_hub.specs.events import silent
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

SIDES = ("remembered", "plain")


def run(given: argparse.Namespace, *, remember: bool) -> None:
    base = harness.load_base(given)
    train_set, held_out = harness.tokenized(given, base)
    layers = base.model.config.num_hidden_layers
    config = LoRAConfig(
        rank=harness.RANK,
        alpha=harness.ALPHA,
        target_modules=harness.targets(given),
        layers_to_transform=tuple(range(layers - layers // 3, layers)),
    )
    training = TrainingConfig(
        epochs=given.epochs, batch_size=given.batch, learning_rate=harness.RATE, validation=0, threads=given.threads
    )
    with environment.use_threads(given.threads):
        adapter = attach_for_training(base, config, train_set, seed=0, report_message=print)
        decoder = choose_decoder(base, repeated_examples=(*train_set, *held_out) if remember else ())
        training_run = TrainingRun(
            base,
            adapter,
            decoder,
            training,
            TrainingData(examples=(), validation=(), train_set=train_set, held_out=()),
            workdir=None,
            reporter=ProgressReporter(silent, base.device),
            should_stop=lambda: None,
        )
        with harness.timed() as seconds:
            while loop.begin_step(training_run):
                loop.take_step(decoder, [training_run])
        training_run.close()
    tokens = sum(len(example) for example in train_set) * given.epochs
    harness.report(seconds=seconds[0], tokens=tokens, loss=harness.held_out_loss(base, held_out))


def main() -> None:
    given = harness.options(__doc__ or "", examples=96, epochs=3, held_out=24)
    if given.side:
        run(given, remember=given.side == "remembered")
        return
    measured = harness.take_turns(given, SIDES)
    rates = {side: one["tokens"] / one["seconds"] for side, one in measured.items()}
    print(
        f"{given.examples} examples, {given.epochs} epochs, batch {given.batch}, {given.targets}; {given.repeat} rounds"
    )
    print(f"{'side':<12}{'tokens/s':>10}{'held-out':>10}{'peak MB':>9}")
    for side, one in measured.items():
        print(f"{side:<12}{rates[side]:>10.0f}{one['loss']:>10.4f}{one['peak_bytes'] / 1e6:>9.0f}")
    ours, plain = measured["remembered"], measured["plain"]
    harness.conclude(
        "train_top_layers",
        ours=rates["remembered"],
        peer=rates["plain"],
        ratio=rates["remembered"] / rates["plain"],
        loss=abs(ours["loss"] / plain["loss"] - 1),
        memory=ours["peak_bytes"] / plain["peak_bytes"],
    )


if __name__ == "__main__":
    main()
