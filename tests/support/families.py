"""Tiny random models of many families, beside those of `tests.support.models`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.models import make_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTEXT = 512


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model family: its configuration class and the fields that make a model of it small.

    `forward` names how the product computes it: "packed", or "own" for the model's own forward.
    """

    name: str
    kind: str
    forward: str = "own"
    fields: dict[str, Any] = field(default_factory=dict)
    targets: str = "all-linear"
    plain: bool = True  # its configuration has the usual field names


_MAMBA = {
    "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 16,
    "lm_head_multiplier": 0.5, "embedding_multiplier": 2.0,
}  # fmt: skip
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 16, "factor": 32.0,
    "short_factor": [1.0] * 8, "long_factor": [float(n) for n in range(2, 10)],
}  # fmt: skip

FAMILIES = (
    Family(name="llama", kind="Llama", forward="packed"),
    Family(name="mistral", kind="Mistral", forward="packed", fields={"sliding_window": None}),
    Family(name="qwen2", kind="Qwen2", forward="packed"),
    Family(name="qwen3", kind="Qwen3", forward="packed"),
    Family(name="qwen3-moe", kind="Qwen3Moe", targets="attention", fields=_MOE),
    Family(name="gemma2", kind="Gemma2", fields={"final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}),
    Family(
        name="gemma3", kind="Gemma3", fields={"config": "Gemma3TextConfig", "sliding_window": 16,
        "query_pre_attn_scalar": 16, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    Family(name="phi3", kind="Phi3"),
    Family(name="gpt2", kind="GPT2", plain=False, fields={
        "config": "GPT2Config", "model": "GPT2LMHeadModel", "n_embd": 64, "n_layer": 2, "n_head": 4,
        "n_positions": CONTEXT, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    }),
    Family(name="gpt-neox", kind="GPTNeoX"),
    Family(name="granite", kind="Granite", fields={"logits_scaling": 4.0, "residual_multiplier": 0.5}),
    Family(name="falcon-h1", kind="FalconH1", fields=_MAMBA),
    Family(name="recurrent-gemma", kind="RecurrentGemma", fields={
        "lru_width": 64, "attention_window_size": 32, "logits_soft_cap": 2.0, "num_hidden_layers": 3,
    }),
    Family(name="olmo2", kind="Olmo2"),
    Family(name="smollm3", kind="SmolLM3"),
    Family(name="starcoder2", kind="Starcoder2", fields={"sliding_window": None}),
    Family(name="cohere", kind="Cohere", fields={"logit_scale": 0.25}),
    Family(name="longrope", kind="Llama", fields={"rope_parameters": _LONGROPE}),
    Family(name="phi", kind="Phi"),
)  # fmt: skip


def named(name: str) -> Family:
    """Return the family of this name."""
    return next(family for family in FAMILIES if family.name == name)


def make_model(family: Family, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Make a random model of two layers and a width of 64, whose logits differ clearly."""
    import torch
    import transformers

    tokenizer = make_tokenizer()
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.15,
        "tie_word_embeddings": False,
    }
    if family.plain:
        fields |= {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": CONTEXT,
        }
    fields |= {**family.fields, **changes}
    config_class = getattr(transformers, fields.pop("config", f"{family.kind}Config"))
    model_class = getattr(transformers, fields.pop("model", f"{family.kind}ForCausalLM"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = model_class(config_class(**fields))
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith(("norm.weight", "bias")):
                mean = float(name.endswith("weight") and "Gemma" not in family.kind)
                torch.nn.init.normal_(parameter, mean=mean, std=0.1)
    return model.eval()


def save_family(family: Family, folder: Path, **changes: Any) -> Path:
    """Save a model of a family with its tokenizer, and return the folder."""
    make_model(family, **changes).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
