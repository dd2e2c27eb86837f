"""Report of a tokenized dataset, made before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from finch_hub import errors
from finch_hub.engine.data import near_duplicates, splitting
from finch_hub.engine.data.batches import count_shared_prefix
from finch_hub.engine.data.tokenized_examples import TokenizedExamples
from finch_hub.specs.examples import Example
from finch_hub.specs.reports import DataReport

_MAX_PROBLEMS = 20


def make_data_report(
    examples: Sequence[Example],
    validation: Sequence[Example],
    tokenized: TokenizedExamples,
    *,
    lost: int,
    left_out: Sequence[errors.Problem],
    changes: Mapping[str, int],
    steps: int,
) -> DataReport:
    """Return the report of training examples that take at most `steps`.

    Args:
        lost: number of the examples that could not be tokenized.
        left_out: their problems.
        changes: what the chat template drops or changes, with the number of examples.
    """
    lengths = tokenized.lengths
    return DataReport(
        examples=len(tokenized),
        validation_examples=len(validation),
        tokens=int(lengths.sum()),
        label_tokens=int(sum(int(example.labels.sum()) for example in tokenized)),
        length_mean=round(float(lengths.mean()), 2),
        length_max=int(lengths.max()),
        length_p95=int(np.percentile(lengths, 95, method="higher")),
        truncated=sum(example.cut > 0 for example in tokenized),
        left_out=lost,
        problems=tuple(str(problem) for problem, _ in errors.group_problems(left_out)[:_MAX_PROBLEMS]),
        changes=dict(changes),
        duplicates=splitting.count_duplicates(examples),
        overlap=splitting.count_overlap(examples, validation),
        shared_prompts=splitting.count_shared_prompts(examples, validation),
        near_duplicates=near_duplicates.count_near_duplicates(examples, validation),
        shared_prefix_tokens=count_shared_prefix(tokenized),
        steps=steps,
    )
