"""Function bodies from signatures and docstrings.

Measured by ``benchmarks/presets.py`` on SmolLM2-135M-Instruct, 200 training rows of functions of the package
`algorithms` and 60 held-out ones: 0.77 nats per label token against 0.83 of the default configuration, 0.07 ± 0.02
less (paired standard error).
"""

from __future__ import annotations

from finch_hub.plugins.descriptors import Preset
from finch_hub.plugins.presets import common
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.training import TrainingConfig

PRESET = Preset(
    name="code",
    summary="Completes functions from signature and docstring; code only, in the house style of the data.",
    system=(
        "You are a programming assistant. Complete the code you are given so that it does what its signature, "
        "docstring and examples say. Answer with code only and keep the indentation. Handle the empty and the smallest "
        "input."
    ),
    lora=common.LORA,
    training=TrainingConfig(epochs=3, learning_rate=1e-3, batch_size=8, schedule="cosine", warmup_ratio=0.1),
    generation=GenerationConfig(max_new_tokens=384, temperature=0.2, top_p=0.95),
    reasons={
        **common.REASONS,
        "system": "Says that only code is wanted: prose around it would not run.",
        "training.epochs": "With 100 examples the held-out loss went 0.826, 0.811, 0.808: little is left for a fourth.",
        "training.schedule": "Cosine ends near zero, so the last steps settle indentation and naming.",
        "training.warmup_ratio": "Longer than elsewhere: lengths vary most here, and so do the first gradients.",
        "generation.max_new_tokens": "Most functions are shorter; a longer answer has usually begun to repeat itself.",
        "generation.temperature": "Near greedy, with a little room, so that a second try can differ from the first.",
        "generation.top_p": "Cuts the tail of tokens that would be syntax errors.",
    },
)
