"""Examples of a training, split and tokenized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finch_hub import errors
from finch_hub.engine.bases.base import Base, default_max_length
from finch_hub.engine.data import splitting
from finch_hub.engine.data.tokenizing import TokenizedExample, tokenize_all
from finch_hub.engine.training.progress_reporter import ProgressReporter
from finch_hub.specs.examples import Example
from finch_hub.specs.training import TrainingConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """Training and validation examples, as given and tokenized."""

    examples: Sequence[Example]
    validation: Sequence[Example]
    train_set: Sequence[TokenizedExample]
    held_out: Sequence[TokenizedExample]


def prepare_data(
    base: Base,
    training: TrainingConfig,
    examples: Sequence[Example],
    validation: Sequence[Example] | None,
    *,
    system: str | None,
    reporter: ProgressReporter,
) -> TrainingData:
    """Split and tokenize the examples, and fit the base's attention to their lengths.

    Raises:
        InvalidDataset: the examples have nothing to learn.
        InvalidSpec: `max_length` is above the base's context.
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
    train_set = tokenize_all(examples, base.tokenizer, system=system, max_length=length)
    held_out = tokenize_all(validation, base.tokenizer, system=system, max_length=length, subject="validation data")
    base.fit_attention(max(len(example) for example in (*train_set, *held_out)))
    return TrainingData(examples=examples, validation=validation, train_set=train_set, held_out=held_out)
