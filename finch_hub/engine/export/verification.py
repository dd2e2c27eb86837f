"""A merged model held against its adapters: the same probes through both, their logits compared."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub.engine.bases.transformers_logging import quiet_transformers
from finch_hub.engine.export import peft as peft_export
from finch_hub.engine.export.parameters import ExportParameters
from finch_hub.formats.adapter_folder import StoredAdapter
from finch_hub.specs.value import Value

if TYPE_CHECKING:
    import torch

PROBES = (
    "The patient was given 500 mg twice a day, and the fever",
    "Any party in breach of this agreement shall",
    "def mean(values):\n    return sum(values)",
    "In the beginning there was a river, and beside the river",
    "Answer in one sentence: why do leaves turn red in autumn?",
    "1, 1, 2, 3, 5, 8,",
)


class Verification(Value):
    """How the logits of a merged model compare with the adapter's, over all positions of all probes.

    Attributes:
        max_logit_difference: largest absolute difference.
        mean_logit_difference: mean absolute difference.
        logit_spread: standard deviation of the adapter's logits, to judge the differences by.
        argmax_agreement: share of positions whose most likely next token is the same.
        positions: positions compared.
        dtype: in which both were computed.

    """

    max_logit_difference: float
    mean_logit_difference: float
    logit_spread: float
    argmax_agreement: float
    positions: int
    dtype: str


def verify(
    base: Path,
    adapters: Sequence[tuple[Path, float]],
    merged: Path,
    *,
    probes: Sequence[str] = PROBES,
    dtype: str = "float32",
) -> Verification:
    """Compare the logits of a merged model with those of its base under PEFT's own adapters.

    The two are loaded one after the other, so the peak is one model in `dtype`. In float32 what is left is the
    rounding of the merged weights to the base's dtype.

    Raises:
        Incompatible: the adapters do not fit the base.

    """
    import torch

    with quiet_transformers(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)  # PEFT asks for the old name
        found = _logits(merged, (), probes, dtype)
        wanted = _logits(base, adapters, probes, dtype)
    worst = total = spread = 0.0
    same = count = positions = 0
    for ours, theirs in zip(found, wanted, strict=True):
        difference = (ours - theirs).abs()
        worst = max(worst, difference.max().item())
        total += difference.sum(dtype=torch.float64).item()
        spread += (theirs - theirs.mean()).square().sum(dtype=torch.float64).item()
        same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        count += ours.numel()
        positions += ours.shape[0]
    return Verification(
        max_logit_difference=worst,
        mean_logit_difference=total / count,
        logit_spread=(spread / count) ** 0.5,
        argmax_agreement=same / positions,
        positions=positions,
        dtype=dtype,
    )


def _logits(
    folder: Path, adapters: Sequence[tuple[Path, float]], probes: Sequence[str], dtype: str
) -> list[torch.Tensor]:
    """Return the logits ``[tokens, vocabulary]`` of each probe, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch:
        if adapters:
            model = _with_adapters(model, list(_plain(adapters, Path(scratch))))
    model.eval()
    with torch.inference_mode():
        return [
            model(**tokenizer(probe, return_tensors="pt", return_token_type_ids=False)).logits[0].float()
            for probe in probes
        ]


def _plain(adapters: Sequence[tuple[Path, float]], scratch: Path) -> Iterator[tuple[Path, float]]:
    """Yield the adapters as PEFT reads them: written out at full width, as the quantised ones must be.

    DoRA adapters come first: PEFT lets one scale whatever was added before it, where a merge redefines the base.
    """
    for number, (folder, weight) in enumerate(sorted(adapters, key=lambda pair: not _uses_dora(pair[0]))):
        plain = scratch / str(number)
        peft_export.write(folder, None, plain, ExportParameters())
        yield plain, weight


def _uses_dora(folder: Path) -> bool:
    with StoredAdapter(folder) as adapter:
        return bool(adapter.config.get("use_dora"))


def _with_adapters(model: Any, adapters: Sequence[tuple[Path, float]]) -> Any:
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
