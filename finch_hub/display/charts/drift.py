"""The distance of a model from its base on general prompts."""

from __future__ import annotations

from finch_hub.display.charts.bars import Bar, Limit, chart_bars
from finch_hub.display.charts.chart import Chart
from finch_hub.specs.reports import HIGH_FORGETTING, Forgetting


def chart_drift(forgetting: Forgetting, *, before: str) -> Chart:
    """Return the distance before and after a job, with that from which on abilities may be lost.

    Args:
        before: whose distance the first figure is.
    """
    figures = ((before, forgetting.before), ("this version", forgetting.after))
    return chart_bars(
        [Bar(name=name, value=max(value, 0.0), text=f"{value:.3g}") for name, value in figures],
        name="drift",
        title="Drift from the base on general prompts",
        subtitle=f"KL divergence over {forgetting.tokens:,} tokens of fixed answers",
        unit="nats per token",
        columns=("of", "nats per token"),
        limit=Limit(name="other abilities may be lost", value=HIGH_FORGETTING),
    )
