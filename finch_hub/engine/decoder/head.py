"""Language-model head of a base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from finch_hub import errors
from finch_hub.engine.decoder.frozen_linear import can_prepack, get_frozen_linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Head:
    """Language-model head.

    Attributes:
        linear: product from [L, d] to [L, V].
        vocabulary: V, number of tokens.

    Raises:
        Incompatible: the logits are not a linear function of the last hidden states, or the head is adapted.

    """

    def __init__(self, model: PreTrainedModel) -> None:
        module = model.get_output_embeddings()
        scaled = [
            name
            for name in ("final_logit_softcapping", "logits_scaling", "logit_scale")
            if getattr(model.config, name, None) not in (None, 1.0)
        ]
        if type(module) is not nn.Linear or scaled:
            reason = f"its configuration sets {scaled[0]}" if scaled else "its language-model head is adapted"
            raise errors.Incompatible(errors.Problem(what=f"the base cannot be trained: {reason}"))
        self.linear = get_frozen_linear([module], is_prepacked=can_prepack([module]))
        self.vocabulary = len(module.weight)
