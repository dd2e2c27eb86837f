"""What strategies that fit something to data are given: the parents' losses and their gradients, and their inputs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from finch_hub.engine.composition import activations, retention
from finch_hub.engine.composition.core_space import CoreSpace
from finch_hub.engine.composition.factors import Factors
from finch_hub.engine.composition.measurement import Bench
from finch_hub.specs.reports import TokenMetrics

# Examples of each parent in one step.
_ROWS = 4
# Floats that second moments may take at a time: 4 GiB.
_MOMENTS = 1 << 30


class Objective:
    """Mean over the parents of ``loss / (base - own)``, by mini-batches of the rows that a search may look at.

    Its negative is the mean retention but for a constant, so one nat counts more for a parent that gained little.

    Args:
        bench: with the parents' rows.
        base: metrics of the bare base on the selection rows; `own` those of each parent.

    Attributes:
        bench: as given.
        parents: positions of the parents that take part: those that gained, on their rows.

    """

    def __init__(
        self, bench: Bench, *, base: Sequence[TokenMetrics | None], own: Sequence[TokenMetrics | None]
    ) -> None:
        self.bench = bench
        self._gains = {
            t: b.loss - o.loss
            for t, (b, o) in enumerate(zip(base, own, strict=True))
            if b is not None and o is not None and retention.gains(b, o)
        }
        self.parents = tuple(self._gains)
        self._moments: dict[tuple[int, tuple[str, ...]], dict[tuple[str, ...], Tensor]] = {}

    def gradient(self, update: Mapping[str, Factors], *, step: int, seed: int) -> tuple[float, dict[str, Factors]]:
        """Return the value at an update, and its gradients in the form of factors, on the step's mini-batch.

        Every pass over a parent's rows is in an order of its own that the seed decides.
        """
        value = 0.0
        self.bench.set(update)
        for t in self.parents:
            rows = self.bench.rows[t]
            if rows is not None:
                chosen = _mini_batch(len(rows.selection), step, f"{seed}:{t}")
                share = 1 / (self._gains[t] * len(self.parents))
                value += self.bench.backward([rows.selection[i] for i in chosen], scale=share)
        return value, self.bench.take_gradients()

    def inputs(self, core: CoreSpace, *, rows: int) -> Iterator[dict[tuple[str, ...], Tensor]]:
        """Yield the second moments [T, in, in] of inputs under each parent, by the modules that are given the same.

        Of t's X they are ``X Xᵀ / ‖X‖²``: the inputs on up to so many of t's rows while t itself acts. A parent without
        rows may be given anything alike: the identity over `in`. A part of the modules at a time, as large as memory
        allows; where one part holds all modules it is kept, so that another call costs nothing.
        """
        sizes = {module: block.inputs.stacked.shape[1] for block in core.blocks for module in block.modules}
        sizes = dict(sorted(sizes.items()))
        for part in _parts(sizes, most=_MOMENTS // len(self.bench.parents)):
            if (found := self._moments.get((rows, part))) is None:
                found = self._measured(part, sizes, rows)
                if len(part) == len(sizes):
                    self._moments = {(rows, part): found}
            yield found

    def _measured(self, part: tuple[str, ...], sizes: Mapping[str, int], rows: int) -> dict[tuple[str, ...], Tensor]:
        # Which modules share their inputs is the model's doing, so all parents say the same of it.
        of_parents = [
            activations.moments(self.bench, parent.factors, of_parent.selection[:rows], part) if of_parent else {}
            for parent, of_parent in zip(self.bench.parents, self.bench.rows, strict=True)
        ]
        groups = next((seen for seen in of_parents if seen), {(module,): None for module in part})
        return {
            modules: torch.stack([_normed(seen.get(modules), sizes[modules[0]]) for seen in of_parents])
            for modules in groups
        }


def _parts(sizes: Mapping[str, int], *, most: int) -> Iterator[tuple[str, ...]]:
    """Divide modules, in their order, so that the squares of each part's sizes add up to `most` floats or fewer."""
    part: list[str] = []
    floats = 0
    for module, size in sizes.items():
        if part and floats + size**2 > most:
            yield tuple(part)
            part, floats = [], 0
        part.append(module)
        floats += size**2
    yield tuple(part)


def _normed(moment: Tensor | None, size: int) -> Tensor:
    trace = 0.0 if moment is None else float(moment.trace())
    return torch.eye(size) / size if moment is None or trace <= 0 else moment / trace


def _mini_batch(count: int, step: int, key: str) -> list[int]:
    size = min(_ROWS, count)
    steps = count // size
    order = list(range(count))
    random.Random(f"{key}:{step // steps}").shuffle(order)  # noqa: S311 - order, not secrecy
    begin = step % steps * size
    return order[begin : begin + size]
