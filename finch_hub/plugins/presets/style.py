"""Text rewritten in another style.

Measured by ``benchmarks/presets.py`` on SmolLM2-135M-Instruct, 200 training rows of verses for King James English and
60 held-out ones: 1.21 nats per label token against 1.45 of the default configuration, 0.24 ± 0.02 less (paired
standard error).
"""

from __future__ import annotations

from finch_hub.plugins.descriptors import Preset
from finch_hub.plugins.presets import common
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.training import TrainingConfig

PRESET = Preset(
    name="style",
    summary="Rewrites text in the style of the examples and keeps its meaning.",
    system=(
        "You are an editor. Rewrite the text you are given in the style asked for. Keep every statement, name and "
        "number; add nothing and leave nothing out. Answer with the rewritten text only."
    ),
    lora=common.LORA,
    training=TrainingConfig(epochs=3, learning_rate=1e-3, batch_size=8, schedule="cosine", warmup_ratio=0.05),
    generation=GenerationConfig(max_new_tokens=256, temperature=0.7, top_p=0.9),
    reasons={
        **common.REASONS,
        "system": "A rewrite that drops or invents a statement has failed, however well it sounds.",
        "training.epochs": (
            "Style shows in every sentence and is learnt early: with 100 examples the loss went 1.38, 1.36, 1.35."
        ),
        "training.schedule": "Cosine ends near zero, so the last steps settle the register.",
        "training.warmup_ratio": "The first steps' gradients are large while B is still zero.",
        "generation.max_new_tokens": "A rewrite is about as long as its original.",
        "generation.temperature": "Style lives in choices among good words, which greedy decoding flattens.",
        "generation.top_p": "Keeps the choices among good words.",
    },
)
