"""Built-in presets, one for each measured domain; `finch_hub.plugins.builtin` offers them.

The figures beside each preset are nats per label token, with the paired standard error of the difference.
``benchmarks/presets.py`` measured them on SmolLM2-135M-Instruct with 200 training rows and 60 held-out rows.
"""

from __future__ import annotations

from finch_hub.plugins.descriptors import Preset
from finch_hub.specs.generation import GenerationConfig
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

# Settings that all presets share, because adapters of one shape compose well.
_LORA = LoRAConfig(rank=16, alpha=32.0, dropout=0.0, target_modules="all-linear", init="shared")
_TRAINING = TrainingConfig(epochs=3, learning_rate=1e-3, batch_size=8, schedule="cosine", warmup_ratio=0.05)
_REASONS = {
    "lora.rank": "Rank 16 suffices for a domain of several hundred examples. Four such domains compose at rank 64.",
    "lora.alpha": "Twice the rank, so that the scale is 2, as in the default configuration.",
    "lora.dropout": "The runs are short and stop by held-out loss, so there is little overfitting.",
    "lora.target_modules": (
        "q_proj and v_proj hold an eighth of SmolLM2's linear weights, and the MLPs hold most knowledge. In PEFT's own "
        "comparison adapted MLPs are better at equal parameters."
    ),
    "lora.init": "Adapters of a base compose well if they share one fixed initial A.",
    "training.learning_rate": (
        "Five times the default. With 100 examples the held-out loss is that of LoRA+ at 3e-4 and ratio 4 (medical "
        "2.756 against 2.765, style 1.349 against 1.358, code 0.808 against 0.806). A changes more, and the changes of "
        "A keep adapters apart in a composition (docs/composition.md)."
    ),
    "training.batch_size": "A few hundred examples give several tens of steps in an epoch.",
    "training.schedule": "Cosine ends near zero, so the last steps make small corrections.",
    "training.warmup_ratio": "The gradients of the first steps are large while B is still zero.",
}

# Guideline sections and doses: 2.62 against 2.96 of the default configuration, 0.33 ± 0.04 less.
MEDICAL = Preset(
    name="medical",
    summary="Answers clinical questions: guideline summaries, differentials and doses, in short points.",
    system=(
        "You are a clinical reference assistant for health professionals. Answer from established guidelines, in short "
        "points, with the strength of a recommendation where there is one. Give doses with their units. Say so where "
        "the evidence is uncertain, and never invent a source."
    ),
    lora=_LORA,
    training=_TRAINING,
    generation=GenerationConfig(max_new_tokens=384, temperature=0.0),
    reasons={
        **_REASONS,
        "system": "Names the reader and the style. Requires units and honesty, because errors harm people.",
        "training.epochs": (
            "The data states each fact once. With 100 examples the held-out loss was 2.82, 2.77, 2.76."
        ),
        "generation.max_new_tokens": "A guideline section has about 200 tokens; this leaves room for long sections.",
        "generation.temperature": "Doses must not be random, so the most likely token is always chosen.",
    },
)

# Paragraphs of EU regulations: 2.53 against 2.99 of the default configuration, 0.45 ± 0.03 less.
LEGAL = Preset(
    name="legal",
    summary="Answers questions about statutes and regulations in their own wording, with the provision.",
    system=(
        "You are a legal research assistant. Answer from the wording of the statute or regulation and keep its defined "
        "terms. Name the article and paragraph you rely on. Say so where the text leaves a question open. What you "
        "write is information, not legal advice."
    ),
    lora=_LORA,
    training=_TRAINING,
    generation=GenerationConfig(max_new_tokens=512, temperature=0.0),
    reasons={
        **_REASONS,
        "system": "The wording of a statute matters: defined terms and article numbers must stay.",
        "training.epochs": "The held-out loss of the medical preset still fell a little in the third epoch.",
        "generation.max_new_tokens": "A paragraph of a regulation can have several hundred tokens.",
        "generation.temperature": "A quotation has only one correct wording.",
    },
)

# Functions of the package `algorithms`: 0.77 against 0.83 of the default configuration, 0.07 ± 0.02 less.
CODE = Preset(
    name="code",
    summary="Completes functions from signature and docstring, in the code style of the data.",
    system=(
        "You are a programming assistant. Complete the code you are given so that it does what its signature, "
        "docstring and examples say. Answer with code only and keep the indentation. Handle the empty and the smallest "
        "input."
    ),
    lora=_LORA,
    training=_TRAINING.evolve(warmup_ratio=0.1),
    generation=GenerationConfig(max_new_tokens=384, temperature=0.2, top_p=0.95),
    reasons={
        **_REASONS,
        "system": "Requires code only, because prose around it does not run.",
        "training.epochs": "With 100 examples the held-out loss was 0.826, 0.811, 0.808: a fourth epoch gains little.",
        "training.warmup_ratio": "Longer than in other presets, because lengths and so the first gradients vary most.",
        "generation.max_new_tokens": "Most functions are shorter. Longer answers usually repeat themselves.",
        "generation.temperature": "Almost greedy, but a second try can differ from the first.",
        "generation.top_p": "Excludes unlikely tokens that would be syntax errors.",
    },
)

# Verses for King James English: 1.21 against 1.45 of the default configuration, 0.24 ± 0.02 less.
STYLE = Preset(
    name="style",
    summary="Rewrites text in the style of the examples and keeps its meaning.",
    system=(
        "You are an editor. Rewrite the text you are given in the style asked for. Keep every statement, name and "
        "number; add nothing and leave nothing out. Answer with the rewritten text only."
    ),
    lora=_LORA,
    training=_TRAINING,
    generation=GenerationConfig(max_new_tokens=256, temperature=0.7, top_p=0.9),
    reasons={
        **_REASONS,
        "system": "A rewrite that omits or adds a statement is wrong, even in perfect style.",
        "training.epochs": (
            "Every sentence shows the style, so it is learned early. With 100 examples the loss was 1.38, 1.36, 1.35."
        ),
        "generation.max_new_tokens": "A rewrite is about as long as its original.",
        "generation.temperature": "Style needs choices among several good words, which greedy decoding does not make.",
        "generation.top_p": "Limits the choices to likely words.",
    },
)
