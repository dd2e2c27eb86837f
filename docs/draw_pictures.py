"""Draw the pictures of the documentation from the home of `make demo`.

Run it as `FINCH_HOME=$PWD/.demo PYTHONPATH=. .venv/bin/python docs/draw_pictures.py` after the demo.
"""

from __future__ import annotations

from pathlib import Path

from finch_hub import Hub
from finch_hub.display.charts.conflicts import chart_conflicts
from finch_hub.display.charts.loss_curve import chart_losses
from finch_hub.display.charts.retention import chart_retention

IMAGES = Path(__file__).parent / "images"
TRAINED, COMPOSED = "legal", "all-four"


def main() -> None:
    """Write the loss curve of a training, and the retention and conflicts of a composition."""
    with Hub() as hub:
        trained, composed = hub.adapters.evidence(TRAINED), hub.adapters.evidence(COMPOSED)
    curve = None if trained.curve is None else chart_losses(trained.curve)
    for chart in (curve, chart_retention(composed.retention), chart_conflicts(composed)):
        if chart is None:
            raise RuntimeError("a picture has no data: run `make demo` first")
        (IMAGES / f"{chart.name}.svg").write_text(chart.draw_svg() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
