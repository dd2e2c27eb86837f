"""Comparison of a merged model's logits with those of its adapters."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub.engine.bases.transformers_logging import quiet_transformers
from finch_hub.engine.export import peft as peft_export
from finch_hub.engine.export.parameters import PEFTParameters
from finch_hub.formats.atomic_writes import scratch_folder, temporary_place
from finch_hub.formats.peft_names import CONFIG
from finch_hub.specs.value import Value

if TYPE_CHECKING:
    import torch

_PROBES = (
    "The patient was given 500 mg twice a day, and the fever",
    "Any party in breach of this agreement shall",
    "def mean(values):\n    return sum(values)",
    "In the beginning there was a river, and beside the river",
    "Answer in one sentence: why do leaves turn red in autumn?",
    "1, 1, 2, 3, 5, 8,",
)


class Verification(Value):
    """Comparison over all positions of all probes.

    Attributes:
        max_logit_difference: largest absolute difference.
        argmax_agreement: share of positions with the same most likely next token.
        num_positions: number of positions.
    """

    max_logit_difference: float
    argmax_agreement: float
    num_positions: int


def verify_merge(base: Path, adapters: Sequence[tuple[Path, float]], merged: Path) -> Verification:
    """Compare the float32 logits of a merged model with those of PEFT's own adapters.

    The models are loaded one after the other, so the peak is one model. The remaining difference is the rounding of the
    merged weights to the base's dtype.

    Raises:
        Incompatible: the adapters do not fit the base.
    """
    with quiet_transformers(), warnings.catch_warnings():
        # PEFT calls the deprecated name.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        pairs = list(zip(_logits(merged, ()), _logits(base, adapters), strict=True))
    num_positions = sum(len(ours) for ours, _ in pairs)
    return Verification(
        max_logit_difference=max((ours - theirs).abs().max().item() for ours, theirs in pairs),
        argmax_agreement=sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in pairs) / num_positions,
        num_positions=num_positions,
    )


def _logits(folder: Path, adapters: Sequence[tuple[Path, float]]) -> list[torch.Tensor]:
    """Return the logits ``[tokens, vocabulary]`` of each probe in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with scratch_folder(temporary_place()) as scratch:
        if adapters:
            model = _add_adapters(model, _dequantize(adapters, scratch))
    model.eval()
    with torch.inference_mode():
        return [
            model(**tokenizer(probe, return_tensors="pt", return_token_type_ids=False)).logits[0] for probe in _PROBES
        ]


def _dequantize(adapters: Sequence[tuple[Path, float]], scratch: Path) -> list[tuple[Path, float]]:
    """Return the adapters at full width, as PEFT needs them, in folders below `scratch`.

    DoRA adapters come first. PEFT's DoRA scales everything that was added before it; a merge redefines the base only.
    """
    plain = []
    for number, (folder, weight) in enumerate(adapters):
        peft_export.export_peft(folder, None, scratch / str(number), PEFTParameters())
        plain.append((scratch / str(number), weight))
    return sorted(plain, key=lambda pair: not json.loads((pair[0] / CONFIG).read_bytes()).get("use_dora"))


def _add_adapters(model: Any, adapters: Sequence[tuple[Path, float]]) -> Any:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    names = [f"adapter_{number}" for number in range(len(adapters))]
    for name, (folder, weight) in zip(names, adapters, strict=True):
        if isinstance(model, PeftModel):
            model.load_adapter(folder, adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, folder, adapter_name=name)
        for module in model.modules():
            if isinstance(module, LoraLayer) and name in module.scaling:
                module.scaling[name] *= weight
    model.base_model.set_adapter(names)
    return model
