"""From a batch to the hidden states that predict its targets, through any decoder of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from finch_hub import errors
from finch_hub.engine.bases.loading import Base
from finch_hub.engine.data.batches import Batch
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.engine.decoder.frozen_linear import can_prepare, product_of
from finch_hub.engine.decoder.frozen_states import FrozenStates
from finch_hub.engine.decoder.packed import PackedDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Decoder(Protocol):
    """What training and evaluation ask of a model.

    Attributes:
        pads: batches of one length are cheaper.
        shares_prefix: a batch may begin with a prefix of all its examples.
        concurrent: it may be called from several threads at once.

    """

    pads: bool
    shares_prefix: bool
    concurrent: bool

    def hidden(self, batch: Batch, *, seed: int | None = None) -> Tensor:
        """Return the final hidden states [L, d] at the batch's sources.

        Args:
            batch: on the model's device.
            seed: of the dropout masks; None, as in evaluation, drops nothing.

        """

    def remember(self, several: Sequence[Batch]) -> None:
        """Do for the batches what is done once and on all threads, before they are computed side by side."""


class Head:
    """The language-model head.

    Attributes:
        product: from [L, d] to [L, V].
        vocabulary: V.

    Raises:
        Incompatible: the logits are not a linear function of the last hidden states, or the head is adapted.

    """

    def __init__(self, model: PreTrainedModel) -> None:
        linear = model.get_output_embeddings()
        scaled = [
            name
            for name in ("final_logit_softcapping", "logits_scaling", "logit_scale")
            if getattr(model.config, name, None) not in (None, 1.0)
        ]
        if type(linear) is not nn.Linear or scaled:
            what = f"its logits are changed by {scaled[0]}" if scaled else "its language-model head is adapted"
            raise errors.Incompatible(errors.Problem(what=f"the base cannot be trained: {what}"))
        self.product = product_of([linear], prepared=can_prepare([linear]))
        self.vocabulary = len(linear.weight)


def decoder_of(
    base: Base,
    *,
    packing: bool = True,
    gradient_checkpointing: bool = False,
    remember: Sequence[TokenizedExample] = (),
) -> Decoder:
    """Return the fastest decoder that computes what the base and the adapters on it do.

    On CUDA the model's own forward has fused kernels that packed rows would miss.

    Args:
        base: perhaps with adapters on it.
        packing: whether rows may be packed.
        gradient_checkpointing: recompute activations instead of keeping them.
        remember: examples that will come again, so that what the layers under the first adapted one make of them is
            kept, unless it is too much.

    """
    if packing and base.device.type == "cpu" and PackedDecoder.supports(base.model):
        width = base.model.config.hidden_size
        keeps = remember and FrozenStates.fit(remember, width=width, itemsize=base.dtype.itemsize)
        frozen = FrozenStates(remember) if keeps else None
        return PackedDecoder(base.model, gradient_checkpointing=gradient_checkpointing, frozen=frozen)
    return PaddedDecoder(base.model, gradient_checkpointing=gradient_checkpointing)


class PaddedDecoder:
    """Runs the model's own forward over padded rows; right for every architecture and every PEFT layer."""

    pads = True
    shares_prefix = False
    concurrent = False

    def __init__(self, model: PreTrainedModel, *, gradient_checkpointing: bool = False) -> None:
        self._body: nn.Module = model.get_decoder()
        self._model = model
        self._checkpointing = gradient_checkpointing

    def hidden(self, batch: Batch, *, seed: int | None = None) -> Tensor:
        """Return the final hidden states [L, d] at the batch's sources."""
        if batch.prefix:
            raise ValueError("a padded batch has no shared prefix")
        device = batch.input_ids.device
        rows, longest = len(batch.lengths), max(batch.lengths)
        # Where each token goes is known here: to ask the device for it would be to wait for the device.
        begins = [row * longest for row in range(rows)]
        places = torch.cat([torch.arange(at, at + size) for at, size in zip(begins, batch.lengths, strict=True)])
        if device.type != "cpu":
            places = places.pin_memory().to(device, non_blocking=True)
        ids = torch.zeros(rows * longest, dtype=torch.int64, device=device)
        ids.index_copy_(0, places, batch.input_ids)
        mask = None
        if min(batch.lengths) < longest:
            mask = torch.zeros_like(ids).index_fill_(0, places, 1).view(rows, longest)
        self._mode(training=seed is not None)
        if seed is not None:
            torch.manual_seed(seed)
        output: Tensor = self._body(
            input_ids=ids.view(rows, longest), attention_mask=mask, use_cache=False
        ).last_hidden_state
        return output.flatten(0, 1)[places[batch.sources]]

    def remember(self, several: Sequence[Batch]) -> None:
        """Nothing is."""

    def _mode(self, *, training: bool) -> None:
        if self._model.training == training:
            return
        self._model.train(training)
        if self._checkpointing:
            # Older releases of transformers 5 know it by the name of gradient checkpointing only.
            verb = "enable" if training else "disable"
            switch = getattr(self._model, f"activation_checkpointing_{verb}", None)
            switch = switch or getattr(self._model, f"gradient_checkpointing_{verb}")
            switch(*([{"use_reentrant": False}] if training else []))
