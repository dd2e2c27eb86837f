"""Language-model head."""

from __future__ import annotations

import pytest

from finch_hub import errors
from finch_hub.engine.bases.base import Base
from finch_hub.engine.decoder.head import Head


def test_a_base_whose_logits_are_not_linear_is_refused(tiny_base: Base) -> None:
    tiny_base.model.config.final_logit_softcapping = 30.0
    with pytest.raises(errors.Incompatible, match="softcapping"):
        Head(tiny_base.model)
