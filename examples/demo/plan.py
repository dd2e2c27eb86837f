"""Sizes of the demo's steps, chosen so that the steps that are left fit into the seconds that are left.

Work is counted in units. One unit is the training of one token. A speed is measured on the machine, again after each
step, and the remaining seconds are divided anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

KNOWLEDGE, COMPOSITION, ANSWERS, MERGE = "knowledge", "all-four", "answers", "merged"
QUESTIONS_PER_FACT = 4
FACT_ANSWER_TOKENS = 20  # the answers that are taught have up to 17

LEVELS = 100
# The estimates are not exact, and another program may start meanwhile.
_SHARE_TO_PLAN = 0.85

# Units of work that are not a trained token.
_FORWARD_TOKEN = 0.4  # a forward pass without gradients
_DECODING_STEP = 15.0  # the next token of up to 16 answers; it reads all weights
_DECODING_BATCH = 16
# A composition passes over the held-out rows of all parents for each evaluation of its search. It also measures base
# and parents on the rows of the search, then base, parents and plain linear on the other rows.
_PASSES = 5
# With a second evaluation it measures another strategy: one more pass, and moments of the modules' inputs.
_PASSES_OF_A_STRATEGY = 4
_STRATEGY = 2_000.0  # decompositions of matrices
# A composition needs this many held-out rows to keep those of the search apart from those of the report.
_MIN_ROWS_TO_DIVIDE = 16

# Shares of the time from the submission of the first job to its first step: start of a process, imports, load of base.
_WARM_START = 0.25  # a job on the warm worker
_COLD_START = 1.0  # another process, which loads a model too
_MERGE_START = 1.5  # the merge's own comparison of logits, then one with two models in PEFT


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of all steps.

    Attributes:
        facts: facts about the invented product to teach.
        fact_epochs: passes over the facts.
        rows: training rows of a domain.
        held_out: validation rows of a domain.
        evaluations: evaluations of the composition's search.
        answer_tokens: most tokens of an answer that is shown.
    """

    facts: int
    fact_epochs: int
    rows: int
    held_out: int
    evaluations: int
    answer_tokens: int

    @property
    def fact_batch(self) -> int:
        """Examples in a step on facts. Few facts need small batches, for enough steps."""
        return max(1, min(8, self.facts // 2))

    @property
    def row_batch(self) -> int:
        """Examples in a step on a domain. Presets expect hundreds of rows; fewer need smaller batches."""
        return 4 if self.rows >= 24 else 2

    @property
    def min_recall(self) -> float:
        """Share of the facts that the adapter must recall. After little training, it must recall more than the base."""
        return 0.5 if self.facts >= 16 else 0.0

    @property
    def min_gain(self) -> float:
        """Relative decrease of a held-out loss that a domain must reach. After little training, any will do."""
        return 0.1 if self.rows >= 96 else 0.0

    @property
    def min_retention(self) -> float | None:
        """Least mean retention of the composition. None: it must be better than the base on every parent's rows."""
        return 0.8 if self.rows >= 96 and self.held_out >= _MIN_ROWS_TO_DIVIDE and self.evaluations >= 6 else None


_MIN = Sizes(facts=2, fact_epochs=3, rows=4, held_out=2, evaluations=1, answer_tokens=16)
_MAX = Sizes(facts=32, fact_epochs=5, rows=128, held_out=24, evaluations=8, answer_tokens=32)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Speed of a machine.

    Attributes:
        units: units of work in a second.
        start: seconds from the submission of the first job to its first step.
    """

    units: float
    start: float

    def after(self, units: float, seconds: float) -> Speed:
        """Return the speed after a step of that many units and seconds. It falls at once and rises slowly."""
        measured = units / max(seconds, 1e-3)
        return replace(self, units=min(measured, (measured + self.units) / 2))


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Average tokens of a training row: of a fact's question, and of each domain."""

    fact: float
    domains: Mapping[str, float]

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps that have a size, in their order."""
        return (KNOWLEDGE, *self.domains, COMPOSITION, ANSWERS, MERGE)


def sizes_at(level: int) -> Sizes:
    """Return the sizes at a level between 0 and `LEVELS`. No size falls from one level to the next."""
    share = level / LEVELS
    held_out = _MAX.held_out if level >= 80 else _MIN_ROWS_TO_DIVIDE if level >= 6 else _MIN.held_out + level
    return Sizes(
        facts=_between(_MIN.facts, _MAX.facts, share**0.7),
        fact_epochs=_between(_MIN.fact_epochs, _MAX.fact_epochs, min(1.0, share * 10)),
        rows=_between(_MIN.rows, _MAX.rows, share),
        held_out=held_out,
        evaluations=_between(_MIN.evaluations, _MAX.evaluations, share),
        answer_tokens=_between(_MIN.answer_tokens, _MAX.answer_tokens, math.sqrt(share)),
    )


def _between(least: int, most: int, share: float) -> int:
    return least + int((most - least) * share)


def count_units(step: str, sizes: Sizes, tokens: Tokens) -> float:
    """Return the work of a step in units."""
    domains = list(tokens.domains.values())
    if step == KNOWLEDGE:
        answering = 2 * FACT_ANSWER_TOKENS * math.ceil(sizes.facts / _DECODING_BATCH) * _DECODING_STEP
        return sizes.facts * QUESTIONS_PER_FACT * sizes.fact_epochs * tokens.fact + answering
    if step == COMPOSITION:
        is_divided = sizes.held_out >= _MIN_ROWS_TO_DIVIDE
        rows = sizes.held_out / 2 if is_divided else sizes.held_out
        has_strategies = sizes.evaluations > 1
        passes = _PASSES + sizes.evaluations + has_strategies * _PASSES_OF_A_STRATEGY
        return passes * rows * sum(domains) * _FORWARD_TOKEN + has_strategies * _STRATEGY
    if step == ANSWERS:
        return sizes.answer_tokens * _DECODING_STEP + 2 * (tokens.fact + sum(domains)) * _FORWARD_TOKEN
    if step == MERGE:
        return 0.0
    # The held-out loss is measured before and after.
    return (sizes.rows + 2 * sizes.held_out * _FORWARD_TOKEN) * tokens.domains[step]


def estimate_start(step: str, speed: Speed) -> float:
    """Return the seconds of a step that depend on none of its sizes."""
    starts = {KNOWLEDGE: 2 * _WARM_START, ANSWERS: _COLD_START, MERGE: _MERGE_START}
    return starts.get(step, _WARM_START) * speed.start


def estimate_seconds(steps: Sequence[str], sizes: Sizes, tokens: Tokens, speed: Speed) -> float:
    """Return the seconds that steps take at these sizes."""
    work = sum(count_units(step, sizes, tokens) for step in steps)
    return work / speed.units + sum(estimate_start(step, speed) for step in steps)


def choose_sizes(
    steps: Sequence[str], tokens: Tokens, speed: Speed, *, seconds: float, held_out: int | None = None
) -> Sizes:
    """Return the largest sizes at which the steps fit into the seconds, or the least sizes if none fit.

    Args:
        steps: the steps that are left.
        seconds: the seconds that are left for them.
        held_out: validation rows of a domain, if an earlier step has used them.
    """
    chosen = _fix(sizes_at(0), held_out)
    for level in range(1, LEVELS + 1):
        sizes = _fix(sizes_at(level), held_out)
        if estimate_seconds(steps, sizes, tokens, speed) > seconds * _SHARE_TO_PLAN:
            break
        chosen = sizes
    return chosen


def _fix(sizes: Sizes, held_out: int | None) -> Sizes:
    return sizes if held_out is None else replace(sizes, held_out=held_out)
