"""The automatic rank against the best fixed one of 4, 8, 16, 32 and 64, by loss and by parameters.

Every rank is trained on the same rows with the same scale and learning rate. The best step, and how far the automatic
rank is cut, are chosen on one half of the held-out rows; the losses are those of the other half, which nothing was
chosen by.

    python benchmarks/rank.py --base FOLDER --data FILE.jsonl --examples 150 --held-out 100 --epochs 2

Prints a table, and a last line of JSON: `ours` and `peer` are losses of the automatic and of the best fixed rank in
nats per label token, `share` is the automatic one's parameters over the best fixed one's, and `ratio` the inverse of
that: how many times fewer. The loss is within 1 % where `ours` is at most 1.01 times `peer`.
"""

from __future__ import annotations

import warnings

import harness

from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder import evaluation
from finch_hub.engine.training.loop import train
from finch_hub.specs.examples import Example
from finch_hub.specs.lora import LoRAConfig, UnusualValueWarning
from finch_hub.specs.training import TrainingConfig

FIXED = (4, 8, 16, 32, 64)
RATE = 1e-3


def main() -> None:
    given = harness.options(__doc__ or "", examples=96, held_out=96, epochs=2, batch=8)
    base = harness.load_base(given)
    examples, held_out = harness.examples(given)
    half = len(held_out) // 2
    training = TrainingConfig(
        epochs=given.epochs, batch_size=given.batch, learning_rate=RATE, threads=given.threads, max_length=512
    )

    def measured(config: LoRAConfig) -> dict[str, float]:
        with harness.timed() as seconds:
            trained = train(base, config, training, examples, held_out[:half])
        loss = _loss(base, held_out[half:])
        trained.adapter.detach()
        return {"loss": loss, "parameters": trained.report.trainable_parameters, "seconds": seconds[0]}

    print(f"{len(examples)} rows to train on, {half} to choose by, {len(held_out) - half} to measure on")
    print(f"{'rank':<6}{'loss':>8}{'parameters':>14}{'seconds':>9}")
    found = {}
    warnings.simplefilter("ignore", UnusualValueWarning)  # of alpha 64
    for rank in (*FIXED, "auto"):
        alpha = 16.0 if rank == "auto" else float(rank)  # so that every scale is 1
        config = LoRAConfig(rank=rank, alpha=alpha, target_modules=harness.targets(given))
        found[rank] = one = measured(config)
        print(f"{rank:<6}{one['loss']:>8.3f}{one['parameters']:>14,.0f}{one['seconds']:>9.0f}", flush=True)
    best = min(FIXED, key=lambda rank: found[rank]["loss"])
    ours, peer = found["auto"], found[best]
    share = ours["parameters"] / peer["parameters"]
    harness.conclude(
        "rank",
        ours=ours["loss"],
        peer=peer["loss"],
        ratio=1 / share,
        share=round(share, 3),
        best_fixed=best,
        base_loss=_loss(base, held_out[half:]),
        sides={str(rank): one for rank, one in found.items()},
    )


def _loss(base: Base, rows: tuple[Example, ...]) -> float:
    """Measure the base with whatever is enabled on it."""
    return evaluation.measure(base, tokenize_all(rows, base.tokenizer, max_length=512)).loss


if __name__ == "__main__":
    main()
