"""Training speed in non-padding tokens/s, against transformers' Trainer with PEFT and TRL's SFTTrainer.

All sides train the same rank-16 adapter on the same tokens with the same batches of examples, epochs, learning rate
and schedule. They are measured on the same held-out rows in the same way. `trainer` and `trl` have their best settings:
weights in the dtype that is faster on this processor, plain attention, batches by length, fused AdamW, losses on
completions only. `default` is Trainer and PEFT with default settings: float32, torch's attention, random batches.

The first run installs TRL into FINCH_HOME/benchmarks.

    python benchmarks/train_throughput.py [--examples 96] [--repeat 3] [--sides ours trainer]

`ratio` is ours over the better of `trainer` and `trl`. The floor is the rate of the matrix products alone, at the speed
at which this machine multiplies matrices of these shapes.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import harness
import torch

SIDES = ("ours", "trainer", "trl", "default")


def ours(args: argparse.Namespace) -> None:
    from finch_hub import LoRAConfig, TrainingConfig
    from finch_hub.engine import train as train_adapter

    base = harness.load_base(args)
    train, _ = harness.examples(args)
    training = TrainingConfig(
        epochs=args.epochs, batch_size=args.batch, learning_rate=harness.RATE, validation=0, threads=args.threads
    )
    config = LoRAConfig(rank=harness.RANK, alpha=harness.ALPHA, target_modules=harness.targets(args))
    with harness.timed() as seconds:
        trained = train_adapter(base, config, training, train, ())
    tokens = trained.report.tokens
    floor = floor_tokens_per_second(base, trained.report.data.label_tokens / trained.report.data.tokens)
    loss = harness.held_out_loss(base, harness.tokenized(args, base)[1])
    harness.report(seconds=seconds[0], tokens=tokens, loss=loss, floor=floor)


def trainer(args: argparse.Namespace, *, best: bool = True) -> None:
    import transformers

    model, tokenizer = harness.peer_model(args, best=best)
    train, _ = harness.tokenized(args, harness.load_base(args))
    runner = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**harness.peer_arguments(args, best=best)),
        train_dataset=harness.PeerRows(train),
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, padding=True),
    )
    with harness.timed() as seconds:
        runner.train()
    tokens = sum(len(row) for row in train) * args.epochs
    harness.report(seconds=seconds[0], tokens=tokens, loss=harness.measure_peer(args, model))


def trl(args: argparse.Namespace) -> None:
    harness.install_peers()
    import datasets
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = harness.peer_model(args, best=True, adapted=False)
    rows, _ = harness.examples(args)
    train, _ = harness.tokenized(args, harness.load_base(args))
    # TRL applies the chat template to conversations, and its loss is on completions.
    pairs = [
        {
            "prompt": [message.model_dump(include={"role", "content"}) for message in row.messages[:-1]],
            "completion": [row.messages[-1].model_dump(include={"role", "content"})],
        }
        for row in rows
    ]
    arguments = harness.peer_arguments(args, best=True)
    runner = SFTTrainer(
        model=model,
        args=SFTConfig(**arguments, max_length=2048, completion_only_loss=True, gradient_checkpointing=False),
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=tokenizer,
        peft_config=harness.peer_lora(args),
    )
    with harness.timed() as seconds:
        runner.train()
    tokens = sum(len(row) for row in train) * args.epochs
    harness.report(seconds=seconds[0], tokens=tokens, loss=harness.measure_peer(args, runner.model))


def floor_tokens_per_second(base: Any, label_share: float) -> float:
    """Return the tokens/s of the matrix products alone: layers in both directions, and the head for label tokens.

    The gradient of a frozen product is one product too, so each weight costs four operations a token.
    """
    weights = sum(
        module.weight.numel()
        for name, module in base.model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    )
    head = base.model.get_output_embeddings().weight
    inside = weights - head.numel()
    x = torch.ones(1024, base.model.config.hidden_size, dtype=base.dtype)
    w = torch.ones(1536, base.model.config.hidden_size, dtype=base.dtype)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        torch.nn.functional.linear(x, w)
        best = min(best, time.perf_counter() - began)
    rate = 2 * x.numel() * w.shape[0] / best
    return rate / (4 * inside + 4 * head.numel() * label_share)


def main() -> None:
    args = harness.options(__doc__ or "")
    if args.side:
        warnings.simplefilter("ignore")
        {"ours": ours, "trainer": trainer, "trl": trl, "default": lambda g: trainer(g, best=False)}[args.side](args)
        return
    measured = harness.take_turns(args, SIDES)
    rates = {side: result["tokens"] / result["seconds"] for side, result in measured.items()}
    print(f"{args.examples} examples, {args.epochs} epochs, batch {args.batch}, {args.targets}; {args.repeat} rounds")
    print(f"{'side':<10}{'tokens/s':>10}{'held-out':>10}{'peak MB':>9}")
    for side, result in measured.items():
        print(f"{side:<10}{rates[side]:>10.0f}{result['loss']:>10.4f}{result['peak_bytes'] / 1e6:>9.0f}")
    best = max((side for side in ("trainer", "trl") if side in rates), key=lambda side: rates[side], default="ours")
    default = rates.get("default")
    harness.conclude(
        "train_throughput",
        ours=rates["ours"],
        peer=rates[best],
        ratio=rates["ours"] / rates[best],
        peer_name=best,
        ratio_to_default=rates["ours"] / default if default else None,
        share_of_floor=rates["ours"] / measured["ours"]["floor"],
        memory=measured["ours"]["peak_bytes"] / measured[best]["peak_bytes"],
        loss=measured["ours"]["loss"] / measured[best]["loss"],
        sides={side: {**result, "tokens_per_second": rates[side]} for side, result in measured.items()},
    )


if __name__ == "__main__":
    main()
