"""Report of a tokenized dataset, made before the first step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finch_hub.engine.data import splitting
from finch_hub.engine.data.batches import count_shared_prefix
from finch_hub.engine.data.tokenizing import TokenizedExample
from finch_hub.specs.examples import Example
from finch_hub.specs.reports import DataReport


def make_data_report(
    examples: Sequence[Example],
    validation: Sequence[Example],
    tokenized: Sequence[TokenizedExample],
    *,
    steps: int,
    seconds: float | None,
) -> DataReport:
    """Return the report of training examples that take at most `steps` and an estimated number of seconds."""
    lengths = np.array([len(example) for example in tokenized])
    return DataReport(
        examples=len(tokenized),
        validation_examples=len(validation),
        tokens=int(lengths.sum()),
        label_tokens=int(sum(int(example.labels.sum()) for example in tokenized)),
        length_mean=round(float(lengths.mean()), 2),
        length_max=int(lengths.max()),
        length_p95=int(np.percentile(lengths, 95, method="higher")),
        truncated=sum(example.cut > 0 for example in tokenized),
        duplicates=splitting.count_duplicates(examples),
        overlap=splitting.count_overlap(examples, validation),
        shared_prefix_tokens=count_shared_prefix(tokenized),
        steps=steps,
        seconds=seconds,
    )
