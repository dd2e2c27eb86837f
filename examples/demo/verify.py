"""Check of a merged model with transformers and PEFT alone, without Finch Hub."""

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
AGREEMENT = 0.97  # rounding the merged weights to bfloat16 can change the order of nearly equal logits


def main(merged: str, base: str, adapter: str) -> None:
    """Compare the logits of the merged model with those of base and adapter in float32.

    Raises:
        SystemExit: they differ by more than rounding.

    """
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # PEFT uses names that transformers will rename
    tokenizer = AutoTokenizer.from_pretrained(merged)
    batches = [tokenizer(probe, return_tensors="pt") for probe in PROBES]
    merged_logits = _logits(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), batches)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted_logits = _logits(PeftModel.from_pretrained(plain, adapter), batches)
    agreement = (merged_logits.argmax(-1) == adapted_logits.argmax(-1)).float().mean().item()
    difference = (merged_logits - adapted_logits).abs().max().item()
    print(f"transformers loads {merged}. Compared with base and adapter in PEFT,")
    count = len(merged_logits)
    print(f"logits differ by {difference:.3g} at most, with the same next token at {agreement:.1%} of {count} places")
    if agreement < AGREEMENT:
        sys.exit(f"the merged model differs from base and adapter: the next token agrees at {agreement:.1%} of places")


def _logits(model: Any, batches: list[Any]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model.eval()(**batch).logits[0] for batch in batches])


if __name__ == "__main__":
    main(*sys.argv[1:])
