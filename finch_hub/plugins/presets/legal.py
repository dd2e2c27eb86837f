"""Provisions of statutes and regulations, quoted and explained.

Measured by ``benchmarks/presets.py`` on SmolLM2-135M-Instruct, 200 training rows of paragraphs of EU regulations and
60 held-out ones: 2.53 nats per label token against 2.99 of the default configuration, 0.45 ± 0.03 less (paired
standard error).
"""

from __future__ import annotations

from finch_hub.plugins.descriptors import Preset
from finch_hub.plugins.presets import common
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
    lora=common.LORA,
    training=TrainingConfig(epochs=3, learning_rate=1e-3, batch_size=8, schedule="cosine", warmup_ratio=0.05),
    generation=GenerationConfig(max_new_tokens=512, temperature=0.0),
    reasons={
        **common.REASONS,
        "system": "Statutes are read by their wording: defined terms and article numbers must survive.",
        "training.epochs": "As for the medical preset, whose held-out loss still fell a little in the third pass.",
        "training.schedule": "Cosine ends near zero, so the last steps polish the wording.",
        "training.warmup_ratio": "The first steps' gradients are large while B is still zero.",
        "generation.max_new_tokens": "A paragraph of a regulation can run to several hundred tokens.",
        "generation.temperature": "A quotation has one right wording.",
    },
)
