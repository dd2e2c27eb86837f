"""Training speed in non-padding tokens/s, against transformers' Trainer with PEFT and TRL's SFTTrainer.

All sides train the same rank-16 adapter on the same tokens with the same batches of examples, epochs, learning rate
and schedule, and are measured on the same held-out rows in the same way. `trainer` and `trl` are at their best
settings: bfloat16 weights, plain attention, batches by length, fused AdamW, losses on completions only. `default` is
Trainer and PEFT as they come: float32, torch's attention, random batches.

TRL is installed into FINCH_HOME/benchmarks the first time.

    python benchmarks/train_throughput.py [--examples 96] [--repeat 3] [--sides ours trainer]

`ratio` is ours over the better of `trainer` and `trl`. The floor is what the matrix products alone would take at the
rate this machine multiplies matrices of these shapes.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import harness
import torch

SIDES = ("ours", "trainer", "trl", "default")


def ours(given: argparse.Namespace) -> None:
    from finch_hub.engine.training import loop
    from finch_hub.specs.lora import LoRAConfig
    from finch_hub.specs.training import TrainingConfig

    base = harness.load_base(given)
    train, _ = harness.examples(given)
    training = TrainingConfig(
        epochs=given.epochs, batch_size=given.batch, learning_rate=harness.RATE, validation=0, threads=given.threads
    )
    config = LoRAConfig(rank=harness.RANK, alpha=harness.ALPHA, target_modules=harness.targets(given))
    with harness.timed() as seconds:
        trained = loop.train(base, config, training, train, ())
    tokens = trained.report.tokens
    floor = floor_tokens_per_second(base, trained.report.data.label_tokens / trained.report.data.tokens)
    loss = harness.held_out_loss(base, harness.tokenized(given, base)[1])
    harness.report(seconds=seconds[0], tokens=tokens, loss=loss, floor=floor)


def trainer(given: argparse.Namespace, *, best: bool = True) -> None:
    import transformers

    model, tokenizer = harness.peer_model(given, best=best)
    train, _ = harness.tokenized(given, harness.load_base(given))
    runner = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(**harness.peer_arguments(given, best=best)),
        train_dataset=harness.PeerRows(train),
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, padding=True),
    )
    with harness.timed() as seconds:
        runner.train()
    tokens = sum(len(row) for row in train) * given.epochs
    harness.report(seconds=seconds[0], tokens=tokens, loss=harness.measure_peer(given, model))


def trl(given: argparse.Namespace) -> None:
    harness.install_peers()
    import datasets
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = harness.peer_model(given, best=True, adapted=False)
    rows, _ = harness.examples(given)
    train, _ = harness.tokenized(given, harness.load_base(given))
    # Conversations, so that TRL applies the chat template; its own loss is on completions.
    pairs = [
        {
            "prompt": [message.model_dump(include={"role", "content"}) for message in row.messages[:-1]],
            "completion": [row.messages[-1].model_dump(include={"role", "content"})],
        }
        for row in rows
    ]
    arguments = harness.peer_arguments(given, best=True)
    runner = SFTTrainer(
        model=model,
        args=SFTConfig(**arguments, max_length=2048, completion_only_loss=True, gradient_checkpointing=False),
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=tokenizer,
        peft_config=harness.peer_lora(given),
    )
    with harness.timed() as seconds:
        runner.train()
    tokens = sum(len(row) for row in train) * given.epochs
    harness.report(seconds=seconds[0], tokens=tokens, loss=harness.measure_peer(given, runner.model))


def floor_tokens_per_second(base: Any, label_share: float) -> float:
    """Return the rate at which this machine does nothing but the products: layers both ways, head for label tokens.

    The gradient of a frozen product takes one product as well, so each weight costs four operations a token.
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
    given = harness.options(__doc__ or "")
    if given.side:
        warnings.simplefilter("ignore")
        {"ours": ours, "trainer": trainer, "trl": trl, "default": lambda g: trainer(g, best=False)}[given.side](given)
        return
    measured = harness.take_turns(given, SIDES)
    rates = {side: one["tokens"] / one["seconds"] for side, one in measured.items()}
    print(
        f"{given.examples} examples, {given.epochs} epochs, batch {given.batch}, {given.targets}; {given.repeat} rounds"
    )
    print(f"{'side':<10}{'tokens/s':>10}{'held-out':>10}{'peak MB':>9}")
    for side, one in measured.items():
        print(f"{side:<10}{rates[side]:>10.0f}{one['loss']:>10.4f}{one['peak_bytes'] / 1e6:>9.0f}")
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
        sides={side: {**one, "tokens_per_second": rates[side]} for side, one in measured.items()},
    )


if __name__ == "__main__":
    main()
