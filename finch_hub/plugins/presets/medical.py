"""Preset for clinical questions, answered in the style of guidelines.

Measured by ``benchmarks/presets.py`` on SmolLM2-135M-Instruct, 200 training rows of guideline sections and doses and
60 held-out ones: 2.62 nats per label token against 2.96 of the default configuration, 0.33 ± 0.04 less (paired
standard error).
"""

from __future__ import annotations

from finch_hub.plugins.descriptors import Preset
from finch_hub.plugins.presets import common
from finch_hub.specs.generation import GenerationConfig

PRESET = Preset(
    name="medical",
    summary="Answers clinical questions: guideline summaries, differentials and doses, in short points.",
    system=(
        "You are a clinical reference assistant for health professionals. Answer from established guidelines, in short "
        "points, with the strength of a recommendation where there is one. Give doses with their units. Say so where "
        "the evidence is uncertain, and never invent a source."
    ),
    lora=common.LORA,
    training=common.TRAINING,
    generation=GenerationConfig(max_new_tokens=384, temperature=0.0),
    reasons={
        **common.REASONS,
        "system": "Names the reader and the style. Requires units and honesty, because errors harm people.",
        "training.epochs": (
            "The data states each fact once. With 100 examples the held-out loss was 2.82, 2.77, 2.76."
        ),
        "generation.max_new_tokens": "A guideline section has about 200 tokens; this leaves room for long sections.",
        "generation.temperature": "Doses must not be random, so the most likely token is always chosen.",
    },
)
