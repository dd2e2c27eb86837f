"""Interface of decoders, and the choice of the fastest one for a base."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.batches import Batch
from finch_hub.engine.data.tokenized_examples import TokenizedExamples
from finch_hub.engine.decoder.forward_check import check_forward
from finch_hub.engine.decoder.frozen_states import FrozenStates
from finch_hub.engine.decoder.loss import Head
from finch_hub.engine.decoder.own_head import has_linear_head
from finch_hub.engine.decoder.packed import PackedDecoder
from finch_hub.engine.decoder.padded import PaddedDecoder


class Decoder(Protocol):
    """Forward pass of a model, from a batch to the hidden states that predict its targets."""

    is_padded: bool  # batches of one length are cheaper
    can_share_prefix: bool  # a batch may begin with a prefix of all its examples
    is_thread_safe: bool  # several threads may call it at once

    def hidden_states(self, batch: Batch, *, seed: int | None = None) -> Tensor:
        """Return the final hidden states [L, d] at the batch's sources; without a seed, dropout is off."""

    def cache_frozen_states(self, batches: Sequence[Batch]) -> None:
        """Compute hidden states that later passes reuse, on all threads, before batches are computed side by side."""


def choose_decoder(
    base: Base,
    *,
    packing: bool = True,
    gradient_checkpointing: bool = False,
    repeated: Sequence[TokenizedExamples] = (),
) -> Decoder:
    """Return the fastest decoder that computes the same as the base with its adapters.

    On CUDA the model's own forward is faster: it has fused kernels that packed rows cannot use. For examples that are
    `repeated`, the hidden states below the first adapted layer are computed once, if they fit the limit.
    """
    if packing and can_pack(base):
        width = base.model.config.hidden_size
        is_cached = repeated and FrozenStates.fits_limit(repeated, width=width, itemsize=base.dtype.itemsize)
        frozen = FrozenStates([*itertools.chain(*repeated)]) if is_cached else None
        return PackedDecoder(base.model, gradient_checkpointing=gradient_checkpointing, frozen=frozen)
    one_by_one = check_forward(base).rows_interact
    return PaddedDecoder(base.model, gradient_checkpointing=gradient_checkpointing, one_by_one=one_by_one)


def can_pack(base: Base) -> bool:
    """Return whether the packed decoder computes the same as the base with its adapters, and is the fastest."""
    # The model's own head is not thread-safe.
    is_possible = base.device.type == "cpu" and PackedDecoder.supports(base.model) and has_linear_head(base.model)
    return is_possible and check_forward(base).is_packed


def make_head(base: Base) -> Head:
    """Return the head that computes the same logits as the base with its adapters.

    Raises:
        Incompatible: see :func:`check_forward`.
    """
    is_linear = has_linear_head(base.model) and check_forward(base).is_head_linear
    return Head(base.model, is_linear=is_linear)


def describe_forward(decoder: Decoder, head: Head) -> str:
    """Return in a few words how losses are computed, for the environment of a training."""
    body = "packed" if isinstance(decoder, PackedDecoder) else "own"
    return f"{body}, head's product" if head.linear is not None else f"{body}, own logits"
