"""Checks a merged model with transformers and PEFT alone: nothing of Finch Hub is imported."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

PROBES = (
    "Say this in the English of the King James Bible: He went home and told his brothers everything.",
    "def add(first: int, second: int) -> int:",
    "The rights of the data subject are",
)
AGREEMENT = 0.97  # the merged weights are rounded to bfloat16, which can turn a near tie over


def main(merged: str, base: str, adapter: str) -> None:
    """Compare the merged model's logits with those of base and adapter, in float32, and fail where they differ."""
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for what it is about to rename
    tokenizer = AutoTokenizer.from_pretrained(merged)
    batches = [tokenizer(probe, return_tensors="pt") for probe in PROBES]
    whole = _logits(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), batches)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = _logits(PeftModel.from_pretrained(plain, adapter), batches)
    agreement = (whole.argmax(-1) == adapted.argmax(-1)).float().mean().item()
    difference = (whole - adapted).abs().max().item()
    print(f"plain transformers loads {merged}; against base + adapter in plain PEFT,")
    print(f"logits differ by {difference:.3g} at most, the same next token at {agreement:.1%} of {len(whole)} places")
    if agreement < AGREEMENT:
        sys.exit("the merged model is not the adapter's")


def _logits(model: Any, batches: list[Any]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model.eval()(**batch).logits[0] for batch in batches])


if __name__ == "__main__":
    main(*sys.argv[1:])
