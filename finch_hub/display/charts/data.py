"""The rows of a training: how long they are, and what was left out of them."""

from __future__ import annotations

from finch_hub.display.charts.bars import Bar, chart_bars
from finch_hub.display.charts.chart import Chart
from finch_hub.specs.reports import DataReport


def chart_lengths(data: DataReport) -> Chart | None:
    """Return the mean, the 95th percentile and the largest length of the examples in tokens, None without examples."""
    if not data.examples:
        return None
    figures = (("average", data.length_mean), ("95 % have at most", data.length_p95), ("longest", data.length_max))
    learned = f"{data.label_tokens / data.tokens:.0%}" if data.tokens else "none"
    return chart_bars(
        [Bar(name=name, value=value, text=f"{value:,.0f}") for name, value in figures],
        name="lengths",
        title="Lengths of the training examples",
        subtitle=f"{data.examples:,} examples with {data.tokens:,} tokens, of which {learned} are learned",
        unit="tokens in an example",
        columns=("length", "tokens"),
    )


def list_left_out(data: DataReport) -> list[tuple[str, int]]:
    """Return the numbers of rows that were left out, changed, or that flatter the figures, without zeros."""
    reading = data.reading
    counts = [
        ("could not be read", reading.left_out if reading else 0),
        ("have the weight 0", reading.without_weight if reading else 0),
        ("could not be tokenized", data.left_out),
        ("cut to the largest length", data.truncated),
        ("repeated examples", data.duplicates),
        ("held out and trained on", data.overlap),
        ("held out, prompt trained on", data.shared_prompts),
        ("held out, nearly trained on", data.near_duplicates),
    ]
    return [(name, count) for name, count in counts if count]


def chart_left_out(data: DataReport) -> Chart | None:
    """Return what was left out of the rows, or cut, or repeats, None if nothing was."""
    counts = list_left_out(data)
    if not counts:
        return None
    rows = data.reading.rows if data.reading is not None else data.examples + data.validation_examples + data.left_out
    return chart_bars(
        [Bar(name=name, value=count, text=f"{count:,} ({count / max(rows, 1):.1%})") for name, count in counts],
        name="left-out",
        title="Rows left out, cut or repeated",
        subtitle=f"of {rows:,} rows",
        unit="rows",
        columns=("what", "rows"),
    )
