"""Decoder that runs the model's own forward over padded rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from finch_hub.engine.bases.rope import reset_rope
from finch_hub.engine.data.batches import Batch
from finch_hub.engine.decoder.body import find_body

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PaddedDecoder:
    """Decoder that runs the model's own forward; correct for every architecture and every PEFT layer.

    With `one_by_one`, each row is a batch of its own, for models in which the rows of a batch change each other.
    """

    is_padded = True
    can_share_prefix = False
    is_thread_safe = False

    def __init__(
        self, model: PreTrainedModel, *, gradient_checkpointing: bool = False, one_by_one: bool = False
    ) -> None:
        self._body: nn.Module = find_body(model)
        self._model = model
        self._one_by_one = one_by_one
        self._gradient_checkpointing = gradient_checkpointing

    def hidden_states(self, batch: Batch, *, seed: int | None = None) -> Tensor:
        """Return the final hidden states [L, d] at the batch's sources."""
        if batch.prefix:
            raise ValueError("a padded batch has no shared prefix")
        self._set_mode(is_training=seed is not None)
        if seed is not None:
            torch.manual_seed(seed)
        states = self._compute_alone(batch) if self._one_by_one else self._compute_together(batch)
        return states[batch.sources]

    def _compute_together(self, batch: Batch) -> Tensor:
        """Return the final hidden states [N, d] of all tokens, computed as rows of one length."""
        device = batch.input_ids.device
        rows, longest = len(batch.lengths), max(batch.lengths)
        # The places of the tokens are computed on the host: a copy from the device would wait for it.
        begins = [row * longest for row in range(rows)]
        places = torch.cat([torch.arange(at, at + size) for at, size in zip(begins, batch.lengths, strict=True)])
        if device.type != "cpu":
            places = places.pin_memory().to(device, non_blocking=True)
        ids = torch.zeros(rows * longest, dtype=torch.int64, device=device)
        ids.index_copy_(0, places, batch.input_ids)
        mask = None
        if min(batch.lengths) < longest:
            mask = torch.zeros_like(ids).index_fill_(0, places, 1).view(rows, longest)
        return self._compute(ids.view(rows, longest), mask).flatten(0, 1)[places]

    def _compute_alone(self, batch: Batch) -> Tensor:
        """Return the final hidden states [N, d] of all tokens, computed one example at a time."""
        states = []
        for begin, end in batch.spans:
            reset_rope(self._model)
            states.append(self._compute(batch.input_ids[None, begin:end], None)[0])
        return torch.cat(states)

    def _compute(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        output: Tensor = self._body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return output

    def cache_frozen_states(self, batches: Sequence[Batch]) -> None:
        """Do nothing: the model's own forward computes all layers."""

    def _set_mode(self, *, is_training: bool) -> None:
        if self._model.training == is_training:
            return
        self._model.train(is_training)
        if self._gradient_checkpointing:
            # Older releases of transformers 5 have only the name gradient_checkpointing_enable.
            verb = "enable" if is_training else "disable"
            switch = getattr(self._model, f"activation_checkpointing_{verb}", None)
            switch = switch or getattr(self._model, f"gradient_checkpointing_{verb}")
            switch(*([{"use_reentrant": False}] if is_training else []))
