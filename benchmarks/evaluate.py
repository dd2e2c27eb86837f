"""Held-out loss of one adapter, and of eight on one base, against `evaluate` of transformers' Trainer.

The peer is at its best settings: bfloat16 weights, plain attention, batches by length, only the loss kept. For eight
adapters it runs eight times on a base that stays loaded, its adapters loaded beforehand; so do we.

    python benchmarks/evaluate.py [--held-out 64] [--repeat 3]

`ratio` is the peer's seconds over ours for one adapter, `ratio_of_eight` for eight; `losses` are both sides', ours
averaged as the peer does.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence

import harness
import torch

from finch_hub.engine.data.tokenizing import TokenizedExample

ADAPTERS = 8
SIDES = ("ours", "trainer")


def ours(given: argparse.Namespace) -> None:
    from finch_hub.engine.adapters.attachable_adapter import attach
    from finch_hub.engine.decoder import evaluation
    from finch_hub.engine.training.environment import use_threads
    from finch_hub.specs.lora import LoRAConfig

    base = harness.load_base(given)
    _, held_out = harness.tokenized(given, base)
    config = LoRAConfig(rank=harness.RANK, alpha=harness.ALPHA, target_modules=harness.targets(given))
    adapters = [attach(base, config, name=f"adapter-{number}") for number in range(ADAPTERS)]
    for number, adapter in enumerate(adapters):
        randomize(adapter.parameters(), seed=number)
        adapter.disable()
    seconds, losses = [], []
    with use_threads(given.threads):
        for adapter in adapters:
            adapter.enable()
            with harness.timed() as taken:
                measured = evaluation.measure(base, held_out)
            losses.append(averaged_as_trainer_does(measured.example_losses, held_out, given.batch))
            seconds += taken
            adapter.disable()
    harness.report(one=seconds[0], eight=sum(seconds), loss=losses[0])


def trainer(given: argparse.Namespace) -> None:
    import transformers

    model, tokenizer = harness.peer_model(given, best=True)
    _, held_out = harness.tokenized(given, harness.load_base(given))
    # Sorted rows as they come: grouping by length would shuffle them before.
    arguments = harness.peer_arguments(given, best=True) | {"train_sampling_strategy": "sequential"}
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
    """Return the mean over examples of their batch's mean over tokens; ours is the mean over all tokens."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    total = 0.0
    for begin in range(0, len(order), batch):
        some = order[begin : begin + batch]
        labels = [int(rows[row].labels.sum()) for row in some]
        total += len(some) * sum(losses[row] * count for row, count in zip(some, labels, strict=True)) / sum(labels)
    return total / len(rows)


def randomize(parameters: dict[str, torch.nn.Parameter], *, seed: int) -> None:
    """Fill A and B so that the adapter does something; the same for both sides."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(parameters.items(), key=lambda item: item[0].replace(".default", "")):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)


def main() -> None:
    given = harness.options(__doc__ or "", examples=1, held_out=64)
    if given.side:
        warnings.simplefilter("ignore")
        {"ours": ours, "trainer": trainer}[given.side](given)
        return
    measured = harness.take_turns(given, SIDES)
    print(f"{given.held_out} held-out examples, {given.targets}; {given.repeat} rounds")
    print(f"{'side':<10}{'one, s':>9}{'eight, s':>10}{'loss':>9}{'peak MB':>9}")
    for side, one in measured.items():
        print(f"{side:<10}{one['one']:>9.2f}{one['eight']:>10.2f}{one['loss']:>9.4f}{one['peak_bytes'] / 1e6:>9.0f}")
    us, peer = measured["ours"], measured["trainer"]
    harness.conclude(
        "evaluate",
        ours=us["one"],
        peer=peer["one"],
        ratio=peer["one"] / us["one"],
        ratio_of_eight=peer["eight"] / us["eight"],
        memory=us["peak_bytes"] / peer["peak_bytes"],
        losses=[us["loss"], peer["loss"]],
    )


if __name__ == "__main__":
    main()
