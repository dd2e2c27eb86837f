"""An adapter on the top third of the layers, with and without cached hidden states of the layers below.

Both sides are Finch Hub's. In both, nothing below the first adapted layer is differentiated.

    python benchmarks/train_top_layers.py [--examples 96] [--epochs 3] [--repeat 3]

`ratio` is tokens/s with the cache over tokens/s without it. `loss` is the relative difference of the held-out losses.
"""

from __future__ import annotations

import argparse

import harness

from finch_hub import LoRAConfig, TrainingConfig
from finch_hub.engine.data.tokenized_examples import TokenizedExamples
from finch_hub.engine.decoder.decoder import choose_decoder
from finch_hub.engine.numerics.threads import use_threads
from finch_hub.engine.rank import starting_adapter
from finch_hub.engine.training import loop
from finch_hub.engine.training.data import TrainingData
from finch_hub.engine.training.progress_reporter import ProgressReporter
from finch_hub.engine.training.run import TrainingRun
from finch_hub.specs.events import silent

SIDES = ("cached", "plain")


def run(args: argparse.Namespace, *, cache: bool) -> None:
    base = harness.load_base(args)
    train_set, held_out = harness.tokenized(args, base)
    layers = base.model.config.num_hidden_layers
    config = LoRAConfig(
        rank=harness.RANK,
        alpha=harness.ALPHA,
        target_modules=harness.targets(args),
        layers_to_transform=tuple(range(layers - layers // 3, layers)),
    )
    training = TrainingConfig(
        epochs=args.epochs, batch_size=args.batch, learning_rate=harness.RATE, validation=0, threads=args.threads
    )
    with use_threads(args.threads):
        adapter = starting_adapter.attach(base, config, train_set, seed=0, report_message=print)
        rows = TokenizedExamples(train_set)
        decoder = choose_decoder(base, repeated=(rows, TokenizedExamples(held_out)) if cache else ())
        training_run = TrainingRun(
            base,
            adapter,
            decoder,
            training,
            TrainingData(examples=(), validation=(), train_set=rows, held_out=TokenizedExamples()),
            workdir=None,
            reporter=ProgressReporter(silent, base.device),
            should_stop=lambda: None,
        )
        with harness.timed() as seconds:
            while loop.begin_step(training_run):
                loop.take_step(decoder, [training_run])
        training_run.close()
    tokens = sum(len(example) for example in train_set) * args.epochs
    harness.report(seconds=seconds[0], tokens=tokens, loss=harness.held_out_loss(base, held_out))


def main() -> None:
    args = harness.options(__doc__ or "", examples=96, epochs=3, held_out=24)
    if args.side:
        run(args, cache=args.side == "cached")
        return
    measured = harness.take_turns(args, SIDES)
    rates = {side: result["tokens"] / result["seconds"] for side, result in measured.items()}
    print(f"{args.examples} examples, {args.epochs} epochs, batch {args.batch}, {args.targets}; {args.repeat} rounds")
    print(f"{'side':<12}{'tokens/s':>10}{'held-out':>10}{'peak MB':>9}")
    for side, result in measured.items():
        print(f"{side:<12}{rates[side]:>10.0f}{result['loss']:>10.4f}{result['peak_bytes'] / 1e6:>9.0f}")
    ours, plain = measured["cached"], measured["plain"]
    harness.conclude(
        "train_top_layers",
        ours=rates["cached"],
        peer=rates["plain"],
        ratio=rates["cached"] / rates["plain"],
        loss=abs(ours["loss"] / plain["loss"] - 1),
        memory=ours["peak_bytes"] / plain["peak_bytes"],
    )


if __name__ == "__main__":
    main()
