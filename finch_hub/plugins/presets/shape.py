"""What the built-in presets share, and why: the adapters' shape above all, since those of one shape compose well."""

from __future__ import annotations

from finch_hub.specs.lora import LoRAConfig

LORA = LoRAConfig(rank=16, alpha=32.0, dropout=0.0, target_modules="all-linear", init="shared")
REASONS = {
    "lora.rank": "16 holds a domain of some hundred examples; equal ranks let four domains compose at rank 64.",
    "lora.alpha": "Twice the rank, so that the scale is 2 and a learning rate around 2e-4 to 5e-4 is stable.",
    "lora.dropout": "The runs are short and stop by held-out loss, so there is little to regularise.",
    "lora.target_modules": (
        "Attention alone (q_proj, v_proj) leaves two thirds of the weights untouched; knowledge sits in the MLPs, and "
        "at equal parameters adapting them does better in PEFT's own comparison."
    ),
    "lora.init": "One fixed initial A for every adapter of a base is what makes them fit to be composed.",
    "training.loraplus_ratio": "B starts at zero and lags behind A; a higher rate for it makes short runs go further.",
    "training.batch_size": "Some tens of steps an epoch from a few hundred examples.",
}
