"""Draw the pictures of the documentation: two trainings of a tiny random model, and their composition.

Run it as `PYTHONPATH=.:tests python docs/draw_pictures.py`. It takes a minute or two.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from support.models import CORPUS, DEFAULT, save_model

from finch_hub import Hub, settings
from finch_hub.display.charts.conflicts import chart_conflicts
from finch_hub.display.charts.loss_curve import chart_losses
from finch_hub.display.charts.retention import chart_retention

IMAGES = Path(__file__).parent / "images"
ROWS = 120
SUBJECTS = {"finch": CORPUS[:3], "contract": CORPUS[5:8]}
TRAINING = {"epochs": 8, "learning_rate": 3e-3, "target_modules": "all-linear", "validation": 0.2}


def make_rows(subject: str, answers: list[str]) -> list[tuple[str, str]]:
    """Return questions on a subject, which the answers follow in turns."""
    return [(f"What about {subject} {n}?", answers[n % len(answers)]) for n in range(ROWS)]


def main() -> None:
    """Train, compose, and write the pictures."""
    with tempfile.TemporaryDirectory() as place:
        base = save_model(DEFAULT, Path(place) / "tiny")
        with Hub(settings.load(home=Path(place) / "home")) as hub:
            try:
                trained = [
                    hub.train(make_rows(name, answers), adapter=name, base=base, **TRAINING)  # type: ignore[arg-type]
                    for name, answers in SUBJECTS.items()
                ]
                for job in trained:
                    job.result()
                hub.compose(list(SUBJECTS), adapter="both", evaluations=6).result()
            finally:
                hub.workers.stop_own()
            curve, both = hub.adapters.evidence("finch").curve, hub.adapters.evidence("both")
    charts = (None if curve is None else chart_losses(curve), chart_retention(both.retention), chart_conflicts(both))
    for chart in charts:
        if chart is None:
            raise RuntimeError("a picture has no data")
        (IMAGES / f"{chart.name}.svg").write_text(chart.draw_svg() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
