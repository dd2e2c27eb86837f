"""Loss curve of a training in progress, which a checkpoint keeps."""

from __future__ import annotations

from finch_hub.specs.evidence import MAX_POINTS, LossCurve, thin


class CurveRecorder:
    """Losses of all steps and evaluations, thinned to a bounded number.

    Its state depends on the steps only, so a resumed training ends with the curve of an uninterrupted one.
    """

    def __init__(self) -> None:
        self._points: list[tuple[int, float, float]] = []
        self._evaluations: list[tuple[int, float, float]] = []

    def restore(self, curve: LossCurve) -> None:
        """Continue from the curve of a checkpoint."""
        self._points, self._evaluations = curve.points, curve.evaluations

    def add(self, step: int, loss: float, learning_rate: float) -> None:
        """Add a step."""
        self._points.append((step, loss, learning_rate))
        if len(self._points) > 2 * MAX_POINTS:
            self._points = thin(self._points)

    def add_evaluation(self, step: int, loss: float, accuracy: float) -> None:
        """Add a held-out evaluation."""
        self._evaluations.append((step, loss, accuracy))
        if len(self._evaluations) > 4 * MAX_POINTS:
            self._evaluations = LossCurve.of_points((), self._evaluations).thinned().evaluations

    def curve(self) -> LossCurve:
        """Return the curve as it is kept, which `LossCurve.thinned` makes smaller."""
        return LossCurve.of_points(self._points, self._evaluations)
