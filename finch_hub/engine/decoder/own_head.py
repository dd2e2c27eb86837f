"""Logits that the model itself computes from its last hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from finch_hub.engine.decoder.body import find_body

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _BodyOutput(BaseModelOutput):  # type: ignore[misc]
    """Output of a body with its last hidden states only."""

    def __getattr__(self, name: str) -> None:
        # Every family reads other fields of its body's output, such as those of experts, and passes them on.
        if name.startswith("_"):
            raise AttributeError(name)


class OwnHead:
    """Everything that the model does with its last hidden states: scales, caps, and adapters of the head.

    The model's own forward runs, but its body returns the given states. Use one thread at a time.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        self._body: Any = find_body(model)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [n, V] of hidden states [n, d]."""
        with _replaced_output(self._body, hidden[None]):
            result: Tensor = self._model(inputs_embeds=hidden[None], use_cache=False).logits[0]
        return result


@contextmanager
def _replaced_output(body: Any, hidden: Tensor) -> Iterator[None]:
    """Let a module return these states [1, n, d] in this context, whatever it is called with."""
    own = vars(body).get("forward")
    body.forward = lambda *args, **options: _BodyOutput(last_hidden_state=hidden)
    try:
        yield
    finally:
        if own is None:
            del body.forward
        else:
            body.forward = own


def has_linear_head(model: PreTrainedModel) -> bool:
    """Return whether the head is one linear module, without adapters and without hooks that change its output."""
    head: Any = model.get_output_embeddings()
    return type(head) is torch.nn.Linear and not (head._forward_hooks or head._forward_pre_hooks)
