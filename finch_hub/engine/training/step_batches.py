"""Division of the training examples into steps, micro-batches and parts of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finch_hub.engine.data import batch_plan, batches
from finch_hub.engine.data.tokenized_examples import TokenizedExamples
from finch_hub.engine.decoder.decoder import Decoder
from finch_hub.engine.decoder.packed_layer import AdapterBatch, derive_seed
from finch_hub.engine.numerics.concurrency import MAX_TASKS
from finch_hub.engine.training import schedule
from finch_hub.specs.training import TrainingConfig


class StepBatches:
    """Division of the training examples into steps; a function of the settings, the seed and the step."""

    def __init__(
        self,
        train_set: TokenizedExamples,
        training: TrainingConfig,
        decoder: Decoder,
        *,
        device: torch.device,
        adapter: str | None,
    ) -> None:
        self.lengths: list[int] = train_set.lengths.tolist()
        self.steps_per_epoch, self.steps = schedule.count_steps(training, len(train_set))
        self._train_set, self._training, self._decoder = train_set, training, decoder
        self._device, self._adapter = device, adapter
        self._label_tokens = [int(example.labels.sum()) for example in train_set]
        self._epoch: tuple[int, list[tuple[int, ...]]] | None = None

    def rows(self, step: int) -> tuple[int, ...]:
        """Return the examples of a step, by their places in the training set."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            steps = batch_plan.plan_epoch(
                self.lengths,
                batch_size=self._training.batch_size,
                accumulation=self._training.gradient_accumulation,
                seed=self._training.seed,
                epoch=epoch,
                by_length=self._decoder.is_padded,
            )
            self._epoch = (epoch, steps)
        return self._epoch[1][place]

    def tokens(self, step: int) -> int:
        """Return the tokens of a step's examples."""
        return sum(self.lengths[row] for row in self.rows(step))

    def label_tokens(self, step: int) -> int:
        """Return the label tokens of a step, over which its loss is the mean."""
        return sum(self._label_tokens[row] for row in self.rows(step))

    def micro_batches(self, step: int, max_tokens: int | None) -> list[tuple[int, ...]]:
        """Divide the examples of a step into micro-batches of at most `max_tokens`."""
        batch_size = self._training.batch_size
        return batch_plan.split_into_micro_batches(
            self.rows(step), self.lengths, batch_size=batch_size, batch_tokens=max_tokens
        )

    def parts(self, step: int, number: int, rows: Sequence[int]) -> list[AdapterBatch]:
        """Divide a micro-batch of a step, by its number and examples, into parts that can be computed side by side."""
        share_prefix = self._training.share_prefix and self._decoder.can_share_prefix
        examples = [self._train_set[row] for row in rows]
        ways = min(torch.get_num_threads(), MAX_TASKS) if self._decoder.is_thread_safe else 1
        parts = []
        for shard, places in enumerate(
            batch_plan.split_into_shards(examples, max_shards=ways, share_prefix=share_prefix)
        ):
            batch = batches.pack([examples[place] for place in places], share_prefix=share_prefix)
            seed = derive_seed(self._training.seed, step, number, shard)
            parts.append(AdapterBatch(batch=batch.to(self._device), adapter=self._adapter, seed=seed))
        return parts
