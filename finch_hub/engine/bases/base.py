"""Base model in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Attention = Literal["auto", "eager", "sdpa", "flash_attention_2"]

DEFAULT_CONTEXT = 2048
"""Context length in tokens of a model whose configuration has none."""
_DEFAULT_MAX_LENGTH = 2048
# On a CPU the eager backward pass is faster up to this length. Beyond it the quadratic score matrix costs more.
_EAGER_UP_TO = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """Base model in memory: frozen, in evaluation mode, with its tokenizer.

    Attributes:
        name: source as the user gave it. Adapters store it as `base_model_name_or_path`.
        revision: requested revision on the Hugging Face Hub.
        folder: location of its files.
        fingerprint: sha256 over configuration, tokenizer and weights.
        model: causal language model. Its parameters require no gradient.
        tokenizer: has a padding token.
        device: device of the model.
        dtype: dtype of the floating-point weights.
        attention: requested implementation. With "auto", :meth:`fit_attention` chooses it by length.
    """

    name: str
    revision: str | None
    folder: Path
    fingerprint: str
    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    device: torch.device
    dtype: torch.dtype
    attention: Attention = "auto"

    @property
    def num_parameters(self) -> int:
        """Number of the base's parameters. Tied parameters count once, attached adapters do not count."""
        return sum(p.numel() for name, p in self.model.named_parameters() if ".lora_" not in name)

    @property
    def context(self) -> int:
        """Context length of the model in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or DEFAULT_CONTEXT)

    def fit_attention(self, length: int) -> None:
        """Choose the attention that is fastest on this device for sequences of up to `length` tokens."""
        if self.attention == "auto":
            fastest = "eager" if self.device.type == "cpu" and length <= _EAGER_UP_TO else "sdpa"
            if self.model.config._attn_implementation != fastest:
                self.model.set_attn_implementation(fastest)


def default_max_length(context: int) -> int:
    """Return the length in tokens to which examples are cut if the user sets none."""
    return min(context, _DEFAULT_MAX_LENGTH)
