"""Examples of a training, split and tokenized."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from finch_hub import errors
from finch_hub.engine.bases.base import Base, default_max_length
from finch_hub.engine.data import splitting
from finch_hub.engine.data.tokenized_examples import TokenizedExamples
from finch_hub.engine.data.tokenizing import TokenizedData, tokenize_data
from finch_hub.engine.training.interruption import ShouldStop, stop_on_request
from finch_hub.engine.training.progress_reporter import ProgressReporter
from finch_hub.progress import listen
from finch_hub.specs.examples import Example
from finch_hub.specs.training import TrainingConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """Training and validation examples, as given and tokenized.

    Attributes:
        lost: number of the examples that cannot be used, which are not among the tokenized ones.
        left_out: their problems.
        changes: what the chat template drops or changes, with the number of examples.
    """

    examples: Sequence[Example]
    validation: Sequence[Example]
    train_set: TokenizedExamples
    held_out: TokenizedExamples
    lost: int = 0
    left_out: Sequence[errors.Problem] = ()
    changes: Mapping[str, int] = field(default_factory=dict)


def prepare_data(
    base: Base,
    training: TrainingConfig,
    examples: Sequence[Example],
    validation: Sequence[Example] | None,
    *,
    system: str | None,
    reporter: ProgressReporter,
    should_stop: ShouldStop = lambda: None,
) -> TrainingData:
    """Split and tokenize the examples, and fit the base's attention to their lengths.

    Raises:
        InvalidDataset: the examples have nothing to learn.
        InvalidSpec: `max_length` is above the base's context.
        Interrupted: a stop was requested.
    """
    if not examples:
        raise errors.InvalidDataset("there are no examples", fix="give at least one")
    if training.max_length is not None and training.max_length > base.context:
        what = f"{training.max_length:,} tokens are more than the base's context of {base.context:,}"
        raise errors.InvalidSpec(what, where="max_length", fix="lower it", subject="training")
    reporter.report_phase("tokenizing")
    if validation is None:
        examples, validation = splitting.split_examples(examples, training.validation, training.seed)
    length = training.max_length or default_max_length(base.context)
    tokenize = functools.partial(
        tokenize_data,
        tokenizer=base.tokenizer,
        system=system,
        max_length=length,
        max_left_out=training.max_bad_rows,
        total=len(examples) + len(validation),  # one row of a small held-out part is a large share of it
        is_strict=training.strict,
        num_embeddings=base.num_embeddings,
    )
    with listen(stop_on_request(reporter.report_advance, should_stop)):
        train = tokenize(examples)
        held_out = TokenizedData()
        if validation:
            held_out = tokenize(validation, subject="validation data", lost_before=train.lost)
    base.fit_attention(int(max(lengths.max() for data in (train, held_out) if (lengths := data.examples.lengths).size)))
    return TrainingData(
        examples=examples,
        validation=validation,
        train_set=train.examples,
        held_out=held_out.examples,
        lost=train.lost + held_out.lost,
        left_out=[*train.left_out, *(replace(lost, where=f"validation {lost.where}") for lost in held_out.left_out)],
        changes=train.changes + held_out.changes,
    )
