"""Text rewritten in another style."""

from __future__ import annotations

from finch_hub.plugins.descriptors import Preset
from finch_hub.plugins.presets import shape
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.training import TrainingConfig

PRESET = Preset(
    name="style",
    summary="Rewrites text in the style of the examples and keeps its meaning.",
    system=(
        "You are an editor. Rewrite the text you are given in the style asked for. Keep every statement, name and "
        "number; add nothing and leave nothing out. Answer with the rewritten text only."
    ),
    lora=shape.LORA,
    training=TrainingConfig(
        epochs=3, learning_rate=3e-4, loraplus_ratio=4.0, batch_size=8, schedule="cosine", warmup_ratio=0.05
    ),
    generation=GenerationConfig(max_new_tokens=256, temperature=0.7, top_p=0.9),
    reasons={
        **shape.REASONS,
        "system": "A rewrite that drops or invents a statement has failed, however well it sounds.",
        "training.epochs": "Style shows in every sentence, so it is learnt early; the third pass adds rare forms.",
        "training.learning_rate": "Above the default 2e-4: word choice changes in nearly every token.",
        "training.schedule": "Cosine ends near zero, so the last steps settle the register.",
        "training.warmup_ratio": "The first steps' gradients are large while B is still zero.",
        "generation.max_new_tokens": "A rewrite is about as long as its original.",
        "generation.temperature": "Style lives in choices among good words, which greedy decoding flattens.",
        "generation.top_p": "Keeps the choices among good words.",
    },
)
