"""Events as a terminal and a pipe show them."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from finch_hub.display import progress, tables
from finch_hub.display.visible_console import VisibleConsole
from finch_hub.specs.events import Event
from finch_hub.specs.reports import DataReport


def event(kind: Any, message: str = "", level: Any = "info", **data: Any) -> Event:
    return Event(job_id="j", seq=1, at=datetime.now(UTC), type=kind, level=level, message=message, data=data)


def test_progress_is_drawn_as_one_line() -> None:
    line = progress.draw_event(
        event("progress", step=3, steps=10, epoch=0.3, loss=2.51234, tokens_per_second=1234.5, seconds_left=95)
    )
    assert line == "  step 3/10  epoch 0.30  training loss 2.512  1,234 tokens/s  1:35 min left"
    assert progress.draw_event(event("progress", unit="MB", step=33, steps=269)) == "  MB 33/269"


@pytest.mark.parametrize(
    ("given_event", "line"),
    [
        (event("message", "be careful", "warn"), "  warning: be careful"),
        (event("message", "tried tsv"), "  tried tsv"),
        (
            event("metrics", "held-out loss 2.5 after step 3", step=3, valid_loss=2.5),
            "  held-out loss 2.5 after step 3",
        ),
        (event("metrics", step=3, valid_loss=2.5), "  step 3  valid_loss 2.5"),
        (event("phase", name="training"), "- training"),
        (event("state", state="running", worker="box"), "- running on box"),
        (event("state", state="queued", attempt=0), "- queued"),
        (event("state", state="queued", reason="worker box was lost"), "- queued again: worker box was lost"),
        (event("state", state="failed", reason="no memory"), "- failed"),
        (event("report", name="something", report={}), ""),
    ],
)
def test_an_event_is_drawn_as_one_line(given_event: Event, line: str) -> None:
    assert progress.draw_event(given_event) == line


def test_plain_view_shows_the_first_and_last_progress(capsys: pytest.CaptureFixture[str]) -> None:
    tables.console.cache_clear()
    with progress.PlainView() as lines:
        for step in range(1, 101):
            lines.show(event("progress", step=step, steps=100))
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "  step 1/100"
    assert shown[-1] == "  step 100/100"
    assert len(shown) == 2


def test_plain_view_repeats_why_a_job_waits_after_pauses_that_grow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables.console.cache_clear()
    passed = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: passed))
    shown_at = []
    with progress.PlainView() as lines:
        for _ in range(180):
            passed += 10.0
            lines.show_wait("1 job ahead" if passed > 1000 else "2 jobs ahead")
            if shown := capsys.readouterr().err:
                shown_at.append((passed, shown))
    assert shown_at[0] == (10.0, "- not started yet: 2 jobs ahead\n")
    assert [moment for moment, _ in shown_at] == [10, 40, 100, 220, 460, 940, 1010, 1040, 1100, 1220, 1460]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def using_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Let standard error be a terminal."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    tables.console.cache_clear()
    yield terminal
    tables.console.cache_clear()


def test_the_second_of_two_views_goes_on_when_the_first_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def count_drawn(view: progress.View, step: int) -> int:
        view.show(event("progress", step=step, steps=step))
        if isinstance(view, progress.LiveView):
            view._bar.refresh()
        return terminal.getvalue().count(f"{step}/{step}")

    with using_terminal(monkeypatch) as terminal:
        bar, lines = contextlib.ExitStack(), contextlib.ExitStack()
        first, second = bar.enter_context(progress.open_view()), lines.enter_context(progress.open_view())
        assert count_drawn(first, 31)
        assert count_drawn(second, 32)
        bar.close()
        assert count_drawn(second, 33)
        lines.close()
        with progress.open_view() as third:
            assert isinstance(third, progress.LiveView), "the bar is free again"
            assert count_drawn(third, 34)


def test_live_view_shows_messages_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    with using_terminal(monkeypatch) as terminal, progress.open_view() as shown:
        assert isinstance(shown, progress.LiveView)
        shown.show(event("phase", name="training"))
        shown.show(event("progress", unit="measuring", step=1, steps=4))
        shown._bar.refresh()
        shown.show(event("progress", step=3, steps=10, loss=2.5, seconds_left=7))
        shown.show(event("message", "be careful", "warn"))
    text = terminal.getvalue()
    assert "warning: be careful" in text
    assert "training: measuring" in text[: text.index("be careful")]
    assert text.rindex("measuring") < text.index("3/10"), "the next step is one of the training again"
    assert text.rindex("training") > text.index("be careful")
    assert "3/10" in text
    assert "training loss 2.500  7 s left" in text


def test_data_report_is_drawn_as_one_line() -> None:
    report = DataReport(
        examples=20, validation_examples=4, tokens=1000, label_tokens=250, length_mean=50.0, length_max=80,
        length_p95=75, truncated=1, duplicates=2, steps=6, seconds=12.0,
    )  # fmt: skip
    line = progress.draw_event(event("report", name="data", report=report.model_dump(mode="json")))
    assert line == (
        "  20 training examples, 4 for validation, 1,000 tokens (25% learned), 50 tokens per example, 80 at most, "
        "1 truncated, 2 repeated; 6 steps, about 12 s"
    )


def test_row_counter_tells_long_reads_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    count = progress.RowCounter()
    for seconds, rows in ((1.0, 10_000), (progress.PLAIN_SECONDS, 20_000), (1.0, 30_000), (9.0, 1_040_000)):
        now[0] += seconds
        count(rows)
    assert capsys.readouterr().err.splitlines() == ["- read 20,000 rows", "- read 1,040,000 rows"]


def test_live_view_has_the_losses_below_its_bar() -> None:
    view = progress.LiveView()

    def show(kind: str, **data: Any) -> list[str]:
        view.show(event(kind, **data))
        stream = io.StringIO()
        console = VisibleConsole(stderr=False, width=80)
        console.file = stream
        console.print(view._bar.get_renderable())
        return stream.getvalue().splitlines()[1:]

    assert show("progress", step=1, steps=9, loss=3.0, learning_rate=1e-4) == []
    show("progress", step=5, steps=9, loss=2.5, learning_rate=1e-4)
    show("progress", step=1, steps=9, unit="evaluation", loss=9.0, learning_rate=1e-4)
    # A resumed training begins before the last step, and the steps of the lost attempt are gone.
    lines = show("progress", step=4, steps=9, loss=2.0, learning_rate=1e-4)
    assert lines == ["train loss 3.000 █▁ 2.000, steps 1 to 4"]
    assert show("metrics", step=2, valid_loss=2.25, valid_accuracy=0.5) == lines
    assert show("metrics", step=4, valid_loss=2.0, valid_accuracy=0.5) == [
        *lines,
        "held-out loss 2.250 █▁ 2.000, steps 2 to 4",
    ]
