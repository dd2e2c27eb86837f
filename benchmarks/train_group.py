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

from finch_hub.engine.training import group, loop
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

JOBS = 8
SIDES = ("together", "alone")


def members(given: argparse.Namespace) -> list[group.Member]:
    rows, _ = harness.examples(given)
    each = len(rows) // JOBS
    training = TrainingConfig(
        epochs=given.epochs, batch_size=given.batch, learning_rate=harness.RATE, validation=0, threads=given.threads
    )
    config = LoRAConfig(rank=harness.RANK, alpha=harness.ALPHA, target_modules=harness.targets(given))
    return [
        group.Member(config=config, training=training, examples=rows[job * each : (job + 1) * each], validation=())
        for job in range(JOBS)
    ]


def run(given: argparse.Namespace, *, together: bool) -> None:
    base = harness.load_base(given)
    _, held_out = harness.tokenized(given, base)
    jobs = members(given)
    losses: list[float] = []
    tokens, seconds = 0, 0.0
    for some in [jobs] if together else [[job] for job in jobs]:
        outcomes = group.train_group(base, some)
        seconds += max(trained.report.seconds for trained in outcomes if isinstance(trained, loop.Trained))
        for trained in outcomes:
            assert isinstance(trained, loop.Trained), trained
            tokens += trained.report.tokens
            trained.adapter.enable()
            losses.append(harness.held_out_loss(base, held_out))
            trained.adapter.detach()
    harness.report(seconds=seconds, tokens=tokens, **{f"loss_{job}": loss for job, loss in enumerate(losses)})


def main() -> None:
    given = harness.options(__doc__ or "", examples=12 * JOBS, held_out=16, batch=1)
    if given.side:
        run(given, together=given.side == "together")
        return
    measured = harness.take_turns(given, SIDES)
    rates = {side: one["tokens"] / one["seconds"] for side, one in measured.items()}
    print(
        f"{JOBS} jobs of {given.examples // JOBS} examples, batch {given.batch}, {given.targets}; {given.repeat} rounds"
    )
    print(f"{'side':<10}{'tokens/s':>10}{'seconds':>9}{'peak MB':>9}")
    for side, one in measured.items():
        print(f"{side:<10}{rates[side]:>10.0f}{one['seconds']:>9.1f}{one['peak_bytes'] / 1e6:>9.0f}")
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
