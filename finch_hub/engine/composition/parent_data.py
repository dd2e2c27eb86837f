"""Validation data of the parents for strategies: losses with gradients, and moments of module inputs."""

from __future__ import annotations

import functools
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from finch_hub.engine.composition import retention
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.measurement import Measurement
from finch_hub.engine.composition.second_moment import SecondMoment
from finch_hub.specs.reports import TokenMetrics

# Examples of each parent in one step.
_BATCH_ROWS = 4
# Maximum number of elements of the second moments that are measured together. 9/16 of each is stored: 2.3 GiB.
_MAX_MOMENT_ELEMENTS = 1 << 30

Moments = Mapping[tuple[str, ...], Sequence[SecondMoment]]
"""Second moments of module inputs, one of each parent, by the modules that share the input."""


class ParentData:
    """Validation data of the parents for strategies, from the selection rows.

    Args:
        measurement: holds the parents and their rows.
        base: metrics of the bare base on each parent's selection rows.
        own: metrics of each parent on its own selection rows.

    Attributes:
        parents: positions of the parents that gain over the base on their own rows.
    """

    def __init__(
        self, measurement: Measurement, *, base: Sequence[TokenMetrics | None], own: Sequence[TokenMetrics | None]
    ) -> None:
        self.measurement = measurement
        self._gains = {
            t: b.loss - o.loss
            for t, (b, o) in enumerate(zip(base, own, strict=True))
            if b is not None and o is not None and retention.has_gained(b, o)
        }
        self.parents = tuple(self._gains)
        self._moments: dict[tuple[int, tuple[str, ...]], Moments] = {}

    def gradient(self, update: Mapping[str, Factors], *, step: int, seed: int) -> tuple[float, dict[str, Factors]]:
        """Return the objective of an update on the step's mini-batch, and its gradients in the form of factors.

        The objective is the mean over `parents` of ``loss / (base - own)``. Up to a constant it is the negative mean
        retention, so one nat counts more for a parent that gained little. The seed decides the order of the rows in
        each pass.
        """
        value = 0.0
        self.measurement.activate(update)
        for t in self.parents:
            rows = self.measurement.rows[t]
            if rows is not None:
                indices = _draw_mini_batch(len(rows.selection), step, f"{seed}:{t}")
                scale = 1 / (self._gains[t] * len(self.parents))
                value += self.measurement.backward([rows.selection[i] for i in indices], scale=scale)
        return value, self.measurement.take_gradients()

    def input_moments(self, core: CoreSpace, *, rows: int) -> Iterator[Moments]:
        """Yield the second moments ``X_t X_tᵀ`` of module inputs, one of each parent t.

        X_t are a module's inputs on up to `rows` rows of parent t while parent t is active. Modules that share an
        input share an entry. A parent without rows has no inputs.

        Each part holds as many modules as memory allows. If one part holds all modules, it is cached.
        """
        sizes = {module: block.inputs.stacked.shape[1] for block in core.blocks for module in block.modules}
        sizes = dict(sorted(sizes.items()))
        for part in _divide_modules(sizes, max_elements=_MAX_MOMENT_ELEMENTS // len(self.measurement.parents)):
            # No variable may refer to a part here, because the next one needs its memory.
            yield self._moments.get((rows, part)) or self._measure_moments(part, sizes, rows)

    def _measure_moments(self, part: tuple[str, ...], sizes: Mapping[str, int], rows: int) -> Moments:
        moments = [
            self.measurement.collect_moments(parent.factors, parent_rows.selection[:rows], part, parent=parent.name)
            if parent_rows
            else {}
            for parent, parent_rows in zip(self.measurement.parents, self.measurement.rows, strict=True)
        ]
        no_inputs = functools.cache(SecondMoment)
        groups: defaultdict[tuple[SecondMoment, ...], list[str]] = defaultdict(list)
        for module in part:
            groups[tuple(m.get(module) or no_inputs(sizes[module]) for m in moments)].append(module)
        measured = {tuple(modules): of_parents for of_parents, modules in groups.items()}
        if len(part) == len(sizes):
            self._moments = {(rows, part): measured}
        return measured


def _divide_modules(sizes: Mapping[str, int], *, max_elements: int) -> Iterator[tuple[str, ...]]:
    """Divide modules, in their order, into parts whose squared sizes add up to `max_elements` or less."""
    part: list[str] = []
    elements = 0
    for module, size in sizes.items():
        if part and elements + size**2 > max_elements:
            yield tuple(part)
            part, elements = [], 0
        part.append(module)
        elements += size**2
    yield tuple(part)


def _draw_mini_batch(count: int, step: int, key: str) -> list[int]:
    size = min(_BATCH_ROWS, count)
    steps = count // size
    order = list(range(count))
    random.Random(f"{key}:{step // steps}").shuffle(order)  # noqa: S311 - order, not secrecy
    begin = step % steps * size
    return order[begin : begin + size]
