"""Estimated memory of trainings, compared with the measured peak of small trainings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import trained_once
from support.models import make_tokenizer

from finch_hub.engine.bases import memory, module_layout, weight_shapes
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.training import TrainingConfig

# Allowed range of the estimate over the measured peak.
LEAST, MOST = 0.9, 2.0

CASES: dict[str, dict[str, Any]] = {
    "narrow batch": {"words": 30, "training": {"batch_size": 1}},
    "many tokens": {"words": 100, "training": {"batch_size": 16}},
    "all modules, high rank": {
        "words": 100,
        "training": {"batch_size": 8},
        "lora": {"rank": 64, "target_modules": "all-linear"},
    },
    "bfloat16": {"words": 100, "training": {"batch_size": 16, "dtype": "bfloat16"}},
    "recomputed": {"words": 100, "training": {"batch_size": 16, "gradient_checkpointing": True}},
    "long examples": {"words": 300, "training": {"batch_size": 4}},
    "padded": {"words": 100, "training": {"batch_size": 8, "packing": False}},
    "dora": {"words": 100, "training": {"batch_size": 8}, "lora": {"use_dora": True}},
    "split": {"words": 100, "training": {"batch_size": 16, "batch_tokens": 1000}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose weights and activations are large beside the memory of the libraries."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("memory") / "base"
    tokenizer = make_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=32_000,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_estimate_is_near_the_measured_peak(base: Path, case: str) -> None:
    lora = {"rank": 16, **CASES[case].get("lora", {})}
    training = {
        "epochs": 1,
        "max_steps": 1,
        "dtype": "float32",
        "threads": 1,
        "validation": 0,
        **CASES[case]["training"],
    }
    words = [str(base), json.dumps(lora), json.dumps(training), str(CASES[case]["words"]), "16"]
    ran = subprocess.run([sys.executable, trained_once.__file__, *words], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    measured = json.loads(ran.stdout)
    shape = weight_shapes.read_base_shape(base, module_layout.read_layout(base, name=""))
    assert shape is not None
    estimate = memory.estimate_training_memory(
        shape, LoRAConfig(**lora), TrainingConfig(**training), longest=measured["longest"]
    )
    print(f"{case}: {estimate} over {measured}: {estimate.total / measured['peak']:.2f}")
    assert LEAST <= estimate.total / measured["peak"] <= MOST
