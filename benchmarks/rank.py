"""The automatic rank against the best fixed rank of 4, 8, 16, 32 and 64, by loss and by parameters.

Every rank is trained on the same rows with the same scale and learning rate. One half of the held-out rows chooses the
best step and the cut of the automatic rank. The losses are measured on the other half.

    python benchmarks/rank.py --base FOLDER --data FILE.jsonl --examples 150 --held-out 100 --epochs 2

Prints a table and a last line of JSON: `ours` and `peer` are losses of the automatic and of the best fixed rank in nats
per label token. `share` is the automatic rank's parameters over those of the best fixed rank, and `ratio` is its
inverse. The loss is within 1 % if `ours` is at most 1.01 times `peer`.
"""

from __future__ import annotations

import warnings

import harness

from finch_hub import Example, LoRAConfig, TrainingConfig
from finch_hub.engine import Base, train
from finch_hub.engine.data.tokenizing import tokenize_all
from finch_hub.engine.decoder import evaluation
from finch_hub.specs.lora import UnusualValueWarning

FIXED = (4, 8, 16, 32, 64)
RATE = 1e-3


def main() -> None:
    args = harness.options(__doc__ or "", examples=96, held_out=96, epochs=2, batch=8)
    base = harness.load_base(args)
    examples, held_out = harness.examples(args)
    half = len(held_out) // 2
    training = TrainingConfig(
        epochs=args.epochs, batch_size=args.batch, learning_rate=RATE, threads=args.threads, max_length=512
    )

    def measure(config: LoRAConfig) -> dict[str, float]:
        with harness.timed() as seconds:
            trained = train(base, config, training, examples, held_out[:half])
        loss = _loss(base, held_out[half:])
        trained.adapter.detach()
        return {"loss": loss, "parameters": trained.report.trainable_parameters, "seconds": seconds[0]}

    print(f"{len(examples)} rows to train on, {half} to choose by, {len(held_out) - half} to measure on")
    print(f"{'rank':<6}{'loss':>8}{'parameters':>14}{'seconds':>9}")
    results = {}
    warnings.simplefilter("ignore", UnusualValueWarning)  # for alpha 64
    for rank in (*FIXED, "auto"):
        alpha = 16.0 if rank == "auto" else float(rank)  # so that every scale is 1
        config = LoRAConfig(rank=rank, alpha=alpha, target_modules=harness.targets(args))
        results[rank] = result = measure(config)
        print(f"{rank:<6}{result['loss']:>8.3f}{result['parameters']:>14,.0f}{result['seconds']:>9.0f}", flush=True)
    best = min(FIXED, key=lambda rank: results[rank]["loss"])
    ours, peer = results["auto"], results[best]
    share = ours["parameters"] / peer["parameters"]
    harness.conclude(
        "rank",
        ours=ours["loss"],
        peer=peer["loss"],
        ratio=1 / share,
        share=round(share, 3),
        best_fixed=best,
        base_loss=_loss(base, held_out[half:]),
        sides={str(rank): result for rank, result in results.items()},
    )


def _loss(base: Base, rows: tuple[Example, ...]) -> float:
    """Return the held-out loss of the base with its enabled adapters."""
    return evaluation.measure(base, tokenize_all(rows, base.tokenizer, max_length=512)).loss


if __name__ == "__main__":
    main()
