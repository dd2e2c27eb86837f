"""Held-out loss of one adapter, and of eight on one base, against `evaluate` of transformers' Trainer.

The peer has its best settings: the faster dtype of this processor, plain attention, batches by length, only the loss
kept. For eight adapters, both sides run eight times on a base that stays loaded, with their adapters loaded before.

    python benchmarks/evaluate.py [--held-out 64] [--repeat 3]

`ratio` is the peer's seconds over ours for one adapter, and `ratio_of_eight` for eight. `losses` are the losses of both
sides, averaged as the peer does.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import harness
import torch

from finch_hub.engine.data.tokenized_examples import TokenizedExample

ADAPTERS = 8
SIDES = ("ours", "trainer")


def ours(args: argparse.Namespace) -> None:
    from finch_hub import LoRAConfig
    from finch_hub.engine.adapters.attachable_adapter import AttachableAdapter
    from finch_hub.engine.decoder import evaluation
    from finch_hub.engine.numerics.threads import use_threads

    base = harness.load_base(args)
    _, held_out = harness.tokenized(args, base)
    config = LoRAConfig(rank=harness.RANK, alpha=harness.ALPHA, target_modules=harness.targets(args))
    adapters = [AttachableAdapter(config, base, name=f"adapter-{number}") for number in range(ADAPTERS)]
    for number, adapter in enumerate(adapters):
        randomize(adapter.parameters(), seed=number)
        adapter.disable()
    seconds, losses = [], []
    with use_threads(args.threads):
        for adapter in adapters:
            adapter.enable()
            with harness.timed() as taken:
                measured = evaluation.measure(base, held_out)
            losses.append(averaged_as_trainer_does(measured.example_losses, held_out, args.batch))
            seconds += taken
            adapter.disable()
    harness.report(one=seconds[0], eight=sum(seconds), loss=losses[0])


def trainer(args: argparse.Namespace) -> None:
    import transformers

    model, tokenizer = harness.peer_model(args, best=True)
    _, held_out = harness.tokenized(args, harness.load_base(args))
    # Rows are sorted here, because grouping by length would shuffle them first.
    arguments = harness.peer_arguments(args, best=True) | {"train_sampling_strategy": "sequential"}
    runner = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**arguments, prediction_loss_only=True, eval_strategy="no"),
        eval_dataset=harness.PeerRows(sorted(held_out, key=len)),
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, padding=True),
    )
    seconds, losses = [], []
    for number in range(ADAPTERS):
        randomize({name: p for name, p in model.named_parameters() if "lora_" in name}, seed=number)
        with harness.timed() as taken:
            losses.append(runner.evaluate()["eval_loss"])
        seconds += taken
    harness.report(one=seconds[0], eight=sum(seconds), loss=losses[0])


def averaged_as_trainer_does(losses: Sequence[float], rows: Sequence[TokenizedExample], batch: int) -> float:
    """Return the mean over examples of their batch's mean over tokens. Finch Hub's loss is the mean over all tokens."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    total = 0.0
    for begin in range(0, len(order), batch):
        members = order[begin : begin + batch]
        labels = [int(rows[row].labels.sum()) for row in members]
        mean = sum(losses[row] * count for row, count in zip(members, labels, strict=True)) / sum(labels)
        total += len(members) * mean
    return total / len(rows)


def randomize(parameters: dict[str, torch.nn.Parameter], *, seed: int) -> None:
    """Fill A and B with the same random values on both sides."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(parameters.items(), key=lambda item: item[0].replace(".default", "")):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


def main() -> None:
    args = harness.options(__doc__ or "", examples=1, held_out=64)
    if args.side:
        warnings.simplefilter("ignore")
        {"ours": ours, "trainer": trainer}[args.side](args)
        return
    measured = harness.take_turns(args, SIDES)
    print(f"{args.held_out} held-out examples, {args.targets}; {args.repeat} rounds")
    print(f"{'side':<10}{'one, s':>9}{'eight, s':>10}{'loss':>9}{'peak MB':>9}")
    for side, result in measured.items():
        print(
            f"{side:<10}{result['one']:>9.2f}{result['eight']:>10.2f}{result['loss']:>9.4f}"
            f"{result['peak_bytes'] / 1e6:>9.0f}"
        )
    own, peer = measured["ours"], measured["trainer"]
    harness.conclude(
        "evaluate",
        ours=own["one"],
        peer=peer["one"],
        ratio=peer["one"] / own["one"],
        ratio_of_eight=peer["eight"] / own["eight"],
        memory=own["peak_bytes"] / peer["peak_bytes"],
        losses=[own["loss"], peer["loss"]],
    )


if __name__ == "__main__":
    main()
