"""Divergence of a model from its base over general prompts."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.data.batches import Batch, pack
from finch_hub.engine.data.tokenizing import tokenize_data
from finch_hub.engine.decoder.decoder import Decoder, make_head
from finch_hub.engine.forgetting.general_prompts import GENERAL_EXAMPLES, VERSION
from finch_hub.engine.numerics.concurrency import MAX_TASKS, run_in_parallel
from finch_hub.specs.reports import Forgetting

_MAX_LENGTH = 256
_BATCH_EXAMPLES = 16
_LOGIT_ROWS = 64


class GeneralDivergence:
    """Divergence of a base with adapters from the base alone, over general prompts.

    It is the mean of ``KL(p_base || p_model)`` over the tokens of fixed answers to fixed prompts, in nats per token:
    about 0 where the model still continues general texts as its base does.

    Args:
        base: loaded base, whose enabled adapters must all belong to the reference.
        decoder: forward pass of the reference.

    Attributes:
        tokens: number of tokens that are compared.

    Raises:
        InvalidDataset: the base cannot be measured, for example since its context is shorter than the prompts.
    """

    def __init__(self, base: Base, decoder: Decoder) -> None:
        length = min(base.context, _MAX_LENGTH)
        data = tokenize_data(
            GENERAL_EXAMPLES, base.tokenizer, max_length=length, max_left_out=1.0, num_embeddings=base.num_embeddings
        )
        examples = sorted(data.examples, key=len)  # so that a decoder that pads has little to pad
        base.fit_attention(len(examples[-1]))
        self._device, self._head = base.device, make_head(base)
        self._batches = [
            pack(examples[begin : begin + _BATCH_EXAMPLES], share_prefix=decoder.can_share_prefix)
            for begin in range(0, len(examples), _BATCH_EXAMPLES)
        ]
        self.tokens = sum(len(batch.targets) for batch in self._batches)
        self._reference = self._hidden_states(decoder)

    @torch.no_grad()
    def measure(self, decoder: Decoder) -> float:
        """Return the divergence of the model as it is now, in nats per token.

        Raises:
            Diverged: the model's probabilities are not finite.
        """
        total = torch.zeros((), dtype=torch.float64)
        for reference, hidden in zip(self._reference, self._hidden_states(decoder), strict=True):
            for begin in range(0, len(hidden), _LOGIT_ROWS):
                base, model = (states[begin : begin + _LOGIT_ROWS] for states in (reference, hidden))
                base_log, model_log = self._log_probabilities(base), self._log_probabilities(model)
                total += (base_log.exp() * (base_log - model_log)).sum(dtype=torch.float64).cpu()
        if not torch.isfinite(total):
            raise errors.Diverged("the probabilities on general prompts are not finite")
        return max(0.0, float(total / self.tokens))  # rounding can make it negative

    def report(self, before: float, after: float) -> Forgetting:
        """Return the report of a job that changed the divergence from `before` to `after`."""
        return Forgetting(before=before, after=after, tokens=self.tokens, prompts=VERSION)

    def _hidden_states(self, decoder: Decoder) -> list[Tensor]:
        """Return the hidden states that predict the answers, of each batch, computed side by side where possible."""
        ways = min(torch.get_num_threads(), MAX_TASKS) if decoder.is_thread_safe else 1
        states: list[Tensor] = []
        for begin in range(0, len(self._batches), ways):
            batches = [batch.to(self._device) for batch in self._batches[begin : begin + ways]]
            decoder.cache_frozen_states(batches)
            states += run_in_parallel([functools.partial(_compute, decoder, batch) for batch in batches])
        return states

    def _log_probabilities(self, hidden: Tensor) -> Tensor:
        return torch.log_softmax(self._head.logits(hidden).float(), dim=-1)


@torch.no_grad()
def _compute(decoder: Decoder, batch: Batch) -> Tensor:
    return decoder.hidden_states(batch)
