"""Check of a merged model with transformers and PEFT alone, without Finch Hub. It prints JSON."""

from __future__ import annotations

import json
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


def main(merged: str, base: str, adapter: str) -> None:
    """Compare the logits of the merged model with those of base and adapter in float32.

    `agreement` is the share of places with the same next token. `error` is the mean difference of the logits, and
    `effect` the mean difference that the adapter makes to the base.
    """
    logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # PEFT uses names that transformers will rename
    tokenizer = AutoTokenizer.from_pretrained(merged)
    batches = [tokenizer(probe, return_tensors="pt") for probe in PROBES]
    merged_logits = _logits(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32), batches)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    base_logits = _logits(plain, batches)
    adapted_logits = _logits(PeftModel.from_pretrained(plain, adapter), batches)
    agreement = (merged_logits.argmax(-1) == adapted_logits.argmax(-1)).float().mean().item()
    error = (merged_logits - adapted_logits).abs().mean().item()
    effect = (base_logits - adapted_logits).abs().mean().item()
    print(json.dumps({"agreement": agreement, "error": error, "effect": effect, "places": len(merged_logits)}))


def _logits(model: Any, batches: list[Any]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model.eval()(**batch).logits[0] for batch in batches])


if __name__ == "__main__":
    main(*sys.argv[1:])
