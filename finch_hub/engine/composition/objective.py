"""What strategies that fit something to data descend on: the parents' losses, each in units of its own gain."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from finch_hub.engine.composition import retention
from finch_hub.engine.composition.bench import Bench
from finch_hub.engine.composition.factors import Factors
from finch_hub.specs.reports import TokenMetrics

# Examples of each parent in one step.
_ROWS = 4


class Objective:
    """Mean over the parents of ``loss / (base - own)``, by mini-batches of the rows that a search may look at.

    Its negative is the mean retention but for a constant, so one nat counts more for a parent that gained little.

    Args:
        bench: with the parents' rows.
        base: metrics of the bare base on the selection rows; `own` those of each parent.

    Attributes:
        parents: positions of the parents that take part: those that gained, on their rows.

    """

    def __init__(
        self, bench: Bench, *, base: Sequence[TokenMetrics | None], own: Sequence[TokenMetrics | None]
    ) -> None:
        self._bench = bench
        self._gains = {
            t: b.loss - o.loss
            for t, (b, o) in enumerate(zip(base, own, strict=True))
            if b is not None and o is not None and retention.gains(b, o)
        }
        self.parents = tuple(self._gains)

    def gradient(self, update: Mapping[str, Factors], *, step: int, seed: int) -> tuple[float, dict[str, Factors]]:
        """Return the value at an update, and its gradients in the form of factors, on the step's mini-batch.

        Every pass over a parent's rows is in an order of its own that the seed decides.
        """
        value = 0.0
        self._bench.set(update)
        for t in self.parents:
            rows = self._bench.rows[t]
            if rows is not None:
                chosen = _mini_batch(len(rows.selection), step, f"{seed}:{t}")
                share = 1 / (self._gains[t] * len(self.parents))
                value += self._bench.backward([rows.selection[i] for i in chosen], scale=share)
        return value, self._bench.take_gradients()


def _mini_batch(count: int, step: int, key: str) -> list[int]:
    size = min(_ROWS, count)
    steps = count // size
    order = list(range(count))
    random.Random(f"{key}:{step // steps}").shuffle(order)  # noqa: S311 - order, not secrecy
    begin = step % steps * size
    return order[begin : begin + size]
