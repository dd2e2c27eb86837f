"""How much of each parent's gain a composition keeps, measured on the parents' own validation sets."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finch_hub.engine.composition.applied import applied
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.data import tokenizing
from finch_hub.engine.training import decoder, evaluation
from finch_hub.specs.examples import Example
from finch_hub.specs.reports import Retention, TokenMetrics

if TYPE_CHECKING:
    from finch_hub.engine.bases import Base
    from finch_hub.engine.data.tokenizing import TokenizedExample

# Fewer rows than this are not divided: both halves would be too small to say anything.
_LEAST_TO_DIVIDE = 16
_SELECTION_ROWS = 24
_REPORT_ROWS = 96
_MAX_LENGTH = 1024


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


class Bench:
    """A loaded base and the parents' validation rows, on which updates are measured.

    Args:
        base: in memory; its weights are never touched.
        rows: of each parent, None for one without validation data.
        between: called between batches; what it raises ends the evaluation.

    """

    def __init__(self, base: Base, rows: Sequence[Rows | None], *, between: Callable[[], None] = lambda: None) -> None:
        self.base = base
        self.rows = tuple(rows)
        self.between = between
        longest = max((len(e) for r in rows if r for e in (*r.selection, *r.report)), default=1)
        base.fit_attention(longest)
        self.decoder = decoder.PaddedDecoder(base.model)
        self.head = decoder.Head(base.model)

    def measure(
        self,
        factors: Mapping[str, Factors] | None,
        *,
        on_report: bool = False,
        only: int | None = None,
    ) -> tuple[TokenMetrics | None, ...]:
        """Return the metrics of an update (None: the bare base) on every parent's rows, or on one parent's only."""
        with applied(self.base.model, factors) if factors else contextlib.nullcontext():
            return tuple(
                evaluation.evaluate(
                    self.decoder,
                    self.head,
                    rows.report if on_report else rows.selection,
                    device=self.base.device,
                    between=self.between,
                )
                if rows is not None and only in (None, t)
                else None
                for t, rows in enumerate(self.rows)
            )

    def measure_parents(
        self, parents: Sequence[Mapping[str, Factors]], *, on_report: bool = False
    ) -> tuple[TokenMetrics | None, ...]:
        """Return each parent's metrics on its own rows."""
        return tuple(self.measure(f, on_report=on_report, only=t)[t] for t, f in enumerate(parents))


def tokenize(
    examples: Sequence[Example], base: Base, *, system: str | None, subject: str
) -> tuple[TokenizedExample, ...]:
    """Tokenise validation rows as the parent's training did.

    Raises:
        InvalidDataset: with every row that leaves nothing to predict.

    """
    length = min(base.context, _MAX_LENGTH)
    return tokenizing.tokenize_all(examples, base.tokenizer, system=system, max_length=length, subject=subject)


def gains(base: TokenMetrics, own: TokenMetrics) -> bool:
    """Tell whether a parent beats the base by more than two standard errors over its examples (paired)."""
    differences = [b - o for b, o in zip(base.example_losses, own.example_losses, strict=True)]
    if len(differences) < 2:
        return base.loss > own.loss
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return base.loss > own.loss and statistics.fmean(differences) > 2 * error


def kept(base: TokenMetrics | None, own: TokenMetrics | None, composed: TokenMetrics | None) -> float | None:
    """Return ``(base - composed) / (base - own)``, None where the parent gained nothing or has no rows."""
    if base is None or own is None or composed is None or not gains(base, own):
        return None
    return (base.loss - composed.loss) / (base.loss - own.loss)


def row(
    parent: str,
    *,
    base: TokenMetrics | None,
    own: TokenMetrics | None,
    composed: TokenMetrics | None,
    linear: TokenMetrics | None = None,
) -> Retention:
    """Return one parent's line of the retention matrix."""
    if base is None or own is None or composed is None:
        return Retention(parent=parent, status="unmeasured")
    share = kept(base, own, composed)
    return Retention(
        parent=parent,
        status="undefined" if share is None else "measured",
        base=base.loss,
        own=own.loss,
        composed=composed.loss,
        linear=None if linear is None else linear.loss,
        retention=share,
        examples=base.examples,
    )
