"""Preset for text rewritten in another style.

Measured by ``benchmarks/presets.py`` on SmolLM2-135M-Instruct, 200 training rows of verses for King James English and
60 held-out ones: 1.21 nats per label token against 1.45 of the default configuration, 0.24 ± 0.02 less (paired
standard error).
"""

from __future__ import annotations

from finch_hub.plugins.descriptors import Preset
from finch_hub.plugins.presets import common
from finch_hub.specs.generation import GenerationConfig

PRESET = Preset(
    name="style",
    summary="Rewrites text in the style of the examples and keeps its meaning.",
    system=(
        "You are an editor. Rewrite the text you are given in the style asked for. Keep every statement, name and "
        "number; add nothing and leave nothing out. Answer with the rewritten text only."
    ),
    lora=common.LORA,
    training=common.TRAINING,
    generation=GenerationConfig(max_new_tokens=256, temperature=0.7, top_p=0.9),
    reasons={
        **common.REASONS,
        "system": "A rewrite that omits or adds a statement is wrong, even in perfect style.",
        "training.epochs": (
            "Every sentence shows the style, so it is learned early. With 100 examples the loss was 1.38, 1.36, 1.35."
        ),
        "generation.max_new_tokens": "A rewrite is about as long as its original.",
        "generation.temperature": "Style needs choices among several good words, which greedy decoding does not make.",
        "generation.top_p": "Limits the choices to likely words.",
    },
)
