"""Provisions of statutes and regulations, quoted and explained."""

from __future__ import annotations

from finch_hub.plugins.descriptors import Preset
from finch_hub.plugins.presets import shape
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.training import TrainingConfig

PRESET = Preset(
    name="legal",
    summary="Questions about statutes and regulations, answered in their own wording with the provision named.",
    system=(
        "You are a legal research assistant. Answer from the wording of the statute or regulation and keep its defined "
        "terms. Name the article and paragraph you rely on. Say so where the text leaves a question open. What you "
        "write is information, not legal advice."
    ),
    lora=shape.LORA,
    training=TrainingConfig(
        epochs=3, learning_rate=3e-4, loraplus_ratio=4.0, batch_size=8, schedule="cosine", warmup_ratio=0.05
    ),
    generation=GenerationConfig(max_new_tokens=512, temperature=0.0),
    reasons={
        **shape.REASONS,
        "system": "Statutes are read by their wording: defined terms and article numbers must survive.",
        "training.epochs": "Legal phrasing repeats across provisions, so three passes settle it without copying noise.",
        "training.learning_rate": "Above the default 2e-4: the register is far from what a chat model writes.",
        "training.schedule": "Cosine ends near zero, so the last steps polish the wording.",
        "training.warmup_ratio": "The first steps' gradients are large while B is still zero.",
        "generation.max_new_tokens": "A paragraph of a regulation can run to several hundred tokens.",
        "generation.temperature": "A quotation has one right wording.",
    },
)
