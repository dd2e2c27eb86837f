from __future__ import annotations

import sys
from contextlib import redirect_stderr

from transformers.utils import logging

from finch_hub.engine.bases.transformers_logging import BarReader
from finch_hub.progress import Advance


def test_bars_on_standard_error_are_told(told: list[Advance]) -> None:
    with redirect_stderr(BarReader("converting tensors")):
        print("warning: 3/4 of a text", file=sys.stderr)
        for _ in logging.tqdm_lib.tqdm(range(7), desc="Converting", mininterval=0, file=sys.stderr):
            pass
    assert {advance[:3] for advance in told} == {("converting tensors", done, 7) for done in range(8)}
