"""Preset for function bodies from signatures and docstrings.

Measured by ``benchmarks/presets.py`` on SmolLM2-135M-Instruct, 200 training rows of functions of the package
`algorithms` and 60 held-out ones: 0.77 nats per label token against 0.83 of the default configuration, 0.07 ± 0.02
less (paired standard error).
"""

from __future__ import annotations

from finch_hub.plugins.descriptors import Preset
from finch_hub.plugins.presets import common
from finch_hub.specs.generation import GenerationConfig

PRESET = Preset(
    name="code",
    summary="Completes functions from signature and docstring, in the code style of the data.",
    system=(
        "You are a programming assistant. Complete the code you are given so that it does what its signature, "
        "docstring and examples say. Answer with code only and keep the indentation. Handle the empty and the smallest "
        "input."
    ),
    lora=common.LORA,
    training=common.TRAINING.evolve(warmup_ratio=0.1),
    generation=GenerationConfig(max_new_tokens=384, temperature=0.2, top_p=0.95),
    reasons={
        **common.REASONS,
        "system": "Requires code only, because prose around it does not run.",
        "training.epochs": "With 100 examples the held-out loss was 0.826, 0.811, 0.808: a fourth epoch gains little.",
        "training.warmup_ratio": "Longer than in other presets, because lengths and so the first gradients vary most.",
        "generation.max_new_tokens": "Most functions are shorter. Longer answers usually repeat themselves.",
        "generation.temperature": "Almost greedy, but a second try can differ from the first.",
        "generation.top_p": "Excludes unlikely tokens that would be syntax errors.",
    },
)
