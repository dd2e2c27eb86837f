"""A base with the parents' validation rows, on which updates are measured one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from finch_hub import errors
from finch_hub.engine.adapters import attachable_adapter, module_shapes
from finch_hub.engine.composition import factors as adapter_factors
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.data import batches, tokenizing
from finch_hub.engine.decoder import decoder, evaluation, loss
from finch_hub.specs.lora import LoRAConfig
from finch_hub.specs.reports import TokenMetrics

if TYPE_CHECKING:
    from finch_hub.engine.bases.loading import Base
    from finch_hub.engine.composition.compatibility import ParentInput
    from finch_hub.engine.data.tokenizing import TokenizedExample

# Fewer rows than this are not divided: both halves would be too small to say anything.
_LEAST_TO_DIVIDE = 16
_SELECTION_ROWS = 24
_REPORT_ROWS = 96
_MAX_LENGTH = 1024
_NAME = "measured-composition"


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """One parent's validation examples: what a search may look at, and what only the report does.

    Where there are too few to divide, both are all of them and `divided` is False.
    """

    selection: tuple[TokenizedExample, ...]
    report: tuple[TokenizedExample, ...]
    divided: bool


def divide(examples: Sequence[TokenizedExample]) -> Rows:
    """Set rows for the search apart from those for the report, taking every other one in their given order."""
    rows = tuple(examples)
    if len(rows) < _LEAST_TO_DIVIDE:
        return Rows(selection=rows, report=rows, divided=False)
    taken = set(range(0, min(len(rows), 2 * _SELECTION_ROWS), 2))
    rest = tuple(row for i, row in enumerate(rows) if i not in taken)
    return Rows(selection=tuple(rows[i] for i in sorted(taken)), report=rest[:_REPORT_ROWS], divided=True)


def rows_of(parents: Sequence[ParentInput], base: Base) -> list[Rows | None]:
    """Tokenise the parents' validation rows as their trainings did, and divide them.

    Raises:
        InvalidDataset: with every row of a parent that leaves nothing to predict.

    """
    length = min(base.context, _MAX_LENGTH)
    return [
        divide(
            tokenizing.tokenize_all(
                parent.validation,
                base.tokenizer,
                system=parent.system,
                max_length=length,
                subject=f"validation rows of {parent.name}",
            )
        )
        if parent.validation
        else None
        for parent in parents
    ]


class Bench:
    """Puts LoRA layers on a base, into which one update after the other is set; the base's weights stay untouched.

    A context manager: the layers are gone when it is left.

    Args:
        base: in memory, without adapters that are enabled.
        parents: the updates that will be measured or combined; they say which modules get a layer.
        rows: of each parent, None for one without validation data.
        between: called between batches; what it raises ends the evaluation.

    Attributes:
        parents: their updates, as given; `rows` likewise.
        padded: runs the model's own forward, where hooks see what each module is given.

    Raises:
        Incompatible: a parent has modules that the base lacks, or has in another shape; all of them at once.

    """

    def __init__(
        self,
        base: Base,
        parents: Sequence[adapter_factors.Adapter],
        rows: Sequence[Rows | None],
        *,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        _check_fit(base, parents)
        self.base = base
        self.rows = tuple(rows)
        self.parents = tuple(parents)
        self._between = between
        longest = max((len(e) for r in rows if r for e in (*r.selection, *r.report)), default=1)
        base.fit_attention(longest)
        modules = sorted({path for parent in parents for path in parent.factors})
        config = LoRAConfig(rank=8, alpha=8.0, target_modules=tuple(modules))
        self._layers = attachable_adapter.attach(base, config, name=_NAME)
        self._decoder = decoder.decoder_of(base)
        self.padded = decoder.PaddedDecoder(base.model)
        self._head = decoder.Head(base.model)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._layers.detach()

    def measure(
        self, update: Mapping[str, Factors] | None, *, on_report: bool = False, only: int | None = None
    ) -> tuple[TokenMetrics | None, ...]:
        """Return the metrics of an update (None: the bare base) on every parent's rows, or on one parent's only."""
        self.set(update)
        return tuple(
            self._evaluate(rows.report if on_report else rows.selection)
            if rows is not None and only in (None, t)
            else None
            for t, rows in enumerate(self.rows)
        )

    def measure_parents(self, *, on_report: bool = False) -> tuple[TokenMetrics | None, ...]:
        """Return each parent's metrics on its own rows."""
        return tuple(
            self.measure(parent.factors, on_report=on_report, only=t)[t] for t, parent in enumerate(self.parents)
        )

    def set(self, update: Mapping[str, Factors] | None) -> None:
        """Let an update act, in the place of the one before; None lets the bare base act."""
        if update is None:
            self._layers.disable()
            return
        self._layers.enable()
        for path, layer in self._layers.layers.items():
            A, B = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
            new = update.get(path)
            if new is None:
                A.data, B.data = A.data.new_zeros(1, A.shape[1]), B.data.new_zeros(B.shape[0], 1)
            else:
                A.data, B.data = new.A.to(A.device, torch.float32), new.B.to(B.device, torch.float32)

    def backward(self, examples: Sequence[TokenizedExample], *, scale: float) -> float:
        """Add the gradients of ``scale * mean token loss`` to those of the update that acts; return the value."""
        batch = batches.pack(examples, share_prefix=self._decoder.shares_prefix).to(self.base.device)
        scales = torch.full(batch.targets.shape, scale / len(batch.targets), device=self.base.device)
        value = loss.head_losses(self._decoder.hidden(batch), self._head.product, batch.targets, scales).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    def take_gradients(self) -> dict[str, Factors]:
        """Return the gradients since the update was set, module by module, and forget them."""
        taken: dict[str, Factors] = {}
        for path, layer in self._layers.layers.items():
            A, B = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
            taken[path] = Factors(B=B.grad.cpu(), A=A.grad.cpu())
            A.grad = B.grad = None
        return taken

    def _evaluate(self, examples: Sequence[TokenizedExample]) -> TokenMetrics:
        return evaluation.evaluate(self._decoder, self._head, examples, device=self.base.device, between=self._between)


def _check_fit(base: Base, parents: Sequence[adapter_factors.Adapter]) -> None:
    problems: list[errors.Problem] = []
    for parent in parents:
        try:
            module_shapes.check_fit(adapter_factors.to_weights(parent.factors, {}), base)
        except errors.Incompatible as error:
            problems += [
                errors.Problem(where=f"{parent.name} {problem.where}", what=problem.what) for problem in error.problems
            ]
    if problems:
        raise errors.Incompatible(problems, subject=f"adapters for another base than {base.name}")
