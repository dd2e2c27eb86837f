"""Preset for questions about statutes and regulations.

Measured by ``benchmarks/presets.py`` on SmolLM2-135M-Instruct, 200 training rows of paragraphs of EU regulations and
60 held-out ones: 2.53 nats per label token against 2.99 of the default configuration, 0.45 ± 0.03 less (paired
standard error).
"""

from __future__ import annotations

from finch_hub.plugins.descriptors import Preset
from finch_hub.plugins.presets import common
from finch_hub.specs.generation import GenerationConfig

PRESET = Preset(
    name="legal",
    summary="Answers questions about statutes and regulations in their own wording, with the provision.",
    system=(
        "You are a legal research assistant. Answer from the wording of the statute or regulation and keep its defined "
        "terms. Name the article and paragraph you rely on. Say so where the text leaves a question open. What you "
        "write is information, not legal advice."
    ),
    lora=common.LORA,
    training=common.TRAINING,
    generation=GenerationConfig(max_new_tokens=512, temperature=0.0),
    reasons={
        **common.REASONS,
        "system": "The wording of a statute matters: defined terms and article numbers must stay.",
        "training.epochs": "The held-out loss of the medical preset still fell a little in the third epoch.",
        "generation.max_new_tokens": "A paragraph of a regulation can have several hundred tokens.",
        "generation.temperature": "A quotation has only one correct wording.",
    },
)
