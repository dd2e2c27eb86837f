"""Non-padding tokens/s of eight small jobs in one training group, compared with the same jobs one after another.

Both sides are Finch Hub's: a job alone is a group of one. Only steps are timed. Each job has its own examples, and
batches of one.

    python benchmarks/train_group.py [--jobs 8] [--examples 12] [--repeat 3]

`ratio` is the group's tokens/s over that of single jobs. `loss` is the largest relative difference of a job's held-out
loss between the sides.
"""

from __future__ import annotations

import argparse

import harness

from finch_hub import LoRAConfig, TrainingConfig
from finch_hub.engine import Member, train_group
from finch_hub.engine.training.loop import Trained

JOBS = 8
SIDES = ("together", "alone")


def members(args: argparse.Namespace) -> list[Member]:
    rows, _ = harness.examples(args)
    count = len(rows) // JOBS
    training = TrainingConfig(
        epochs=args.epochs, batch_size=args.batch, learning_rate=harness.RATE, validation=0, threads=args.threads
    )
    config = LoRAConfig(rank=harness.RANK, alpha=harness.ALPHA, target_modules=harness.targets(args))
    return [
        Member(config=config, training=training, examples=rows[job * count : (job + 1) * count], validation=())
        for job in range(JOBS)
    ]


def run(args: argparse.Namespace, *, together: bool) -> None:
    base = harness.load_base(args)
    _, held_out = harness.tokenized(args, base)
    jobs = members(args)
    losses: list[float] = []
    tokens, seconds = 0, 0.0
    for batch in [jobs] if together else [[job] for job in jobs]:
        outcomes = train_group(base, batch)
        seconds += max(trained.report.seconds for trained in outcomes if isinstance(trained, Trained))
        for trained in outcomes:
            assert isinstance(trained, Trained), trained
            tokens += trained.report.tokens
            trained.adapter.enable()
            losses.append(harness.held_out_loss(base, held_out))
            trained.adapter.detach()
    harness.report(seconds=seconds, tokens=tokens, **{f"loss_{job}": loss for job, loss in enumerate(losses)})


def main() -> None:
    args = harness.options(__doc__ or "", examples=12 * JOBS, held_out=16, batch=1)
    if args.side:
        run(args, together=args.side == "together")
        return
    measured = harness.take_turns(args, SIDES)
    rates = {side: result["tokens"] / result["seconds"] for side, result in measured.items()}
    print(f"{JOBS} jobs of {args.examples // JOBS} examples, batch {args.batch}, {args.targets}; {args.repeat} rounds")
    print(f"{'side':<10}{'tokens/s':>10}{'seconds':>9}{'peak MB':>9}")
    for side, result in measured.items():
        print(f"{side:<10}{rates[side]:>10.0f}{result['seconds']:>9.1f}{result['peak_bytes'] / 1e6:>9.0f}")
    together, alone = measured["together"], measured["alone"]
    differences = [abs(together[f"loss_{job}"] / alone[f"loss_{job}"] - 1) for job in range(JOBS)]
    harness.conclude(
        "train_group",
        ours=rates["together"],
        peer=rates["alone"],
        ratio=rates["together"] / rates["alone"],
        loss=max(differences),
        memory=together["peak_bytes"] / alone["peak_bytes"],
    )


if __name__ == "__main__":
    main()
