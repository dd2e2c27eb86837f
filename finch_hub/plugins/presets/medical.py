"""Clinical questions answered the way guidelines are written.

Measured by ``benchmarks/presets.py`` on SmolLM2-135M-Instruct, 200 training rows of guideline sections and doses and
60 held-out ones: 2.62 nats per label token against 2.96 of the default configuration, 0.33 ± 0.04 less (paired
standard error).
"""

from __future__ import annotations

from finch_hub.plugins.descriptors import Preset
from finch_hub.plugins.presets import common
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.training import TrainingConfig

PRESET = Preset(
    name="medical",
    summary="Clinical questions: guideline summaries, differentials, doses; factual, in short points.",
    system=(
        "You are a clinical reference assistant for health professionals. Answer from established guidelines, in short "
        "points, with the strength of a recommendation where there is one. Give doses with their units. Say so where "
        "the evidence is uncertain, and never invent a source."
    ),
    lora=common.LORA,
    training=TrainingConfig(epochs=3, learning_rate=1e-3, batch_size=8, schedule="cosine", warmup_ratio=0.05),
    generation=GenerationConfig(max_new_tokens=384, temperature=0.0),
    reasons={
        **common.REASONS,
        "system": "Names reader and register, asks for units and for honesty about evidence: errors here harm people.",
        "training.epochs": (
            "Facts are stated once in the data. With 100 examples the held-out loss went 2.82, 2.77, 2.76."
        ),
        "training.schedule": "Cosine ends near zero, so the last steps settle the facts instead of shaking them.",
        "training.warmup_ratio": "The first steps' gradients are large while B is still zero.",
        "generation.max_new_tokens": "A guideline section runs to about 200 tokens; this leaves room for long ones.",
        "generation.temperature": "Doses are not to be sampled: the likeliest token, always.",
    },
)
