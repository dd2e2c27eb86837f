"""What is drawn: events as lines, numbers for people, reports as tables."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from finch_hub import errors
from finch_hub.cli import options
from finch_hub.display import progress, reports, tables
from finch_hub.specs.events import Event
from finch_hub.specs.reports import (
    Candidate,
    Change,
    CompositionReport,
    ConflictReport,
    DataReport,
    EvaluationReport,
    MergeReport,
    PairConflict,
    ReproductionReport,
    Retention,
    TensorDifference,
    TokenMetrics,
)


def drawn(thing: Any) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def event(kind: Any, message: str = "", level: Any = "info", **data: Any) -> Event:
    return Event(job_id="j", seq=1, at=datetime.now(UTC), type=kind, level=level, message=message, data=data)


def test_progress_is_one_line() -> None:
    line = progress.describe(
        event("progress", step=3, steps=10, epoch=0.3, loss=2.51234, tokens_per_second=1234.5, seconds_left=95)
    )
    assert line == "  step 3/10  epoch 0.30  loss 2.512  1,234 tokens/s  1:35 min left"


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
        (event("report", name="something", report={}), ""),
    ],
)
def test_an_event_is_told_in_a_line(given_event: Event, line: str) -> None:
    assert progress.describe(given_event) == line


def test_plain_lines_thin_progress_out_but_keep_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    tables.console.cache_clear()
    with progress.PlainLines() as lines:
        for step in range(1, 101):
            lines.show(event("progress", step=step, steps=100))
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "  step 1/100"
    assert shown[-1] == "  step 100/100"
    assert len(shown) == 2


def test_a_terminal_gets_a_bar_with_the_messages_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    tables.console.cache_clear()
    shown = progress.view()
    assert isinstance(shown, progress.LiveBar)
    with shown:
        shown.show(event("phase", name="training"))
        shown.show(event("progress", step=3, steps=10, loss=2.5, seconds_left=7))
        shown.show(event("message", "be careful", "warn"))
    tables.console.cache_clear()
    text = terminal.getvalue()
    assert "warning: be careful" in text
    assert text.rindex("training") > text.index("be careful")
    assert "3/10" in text
    assert "loss 2.500  7 s left" in text


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1:00 min"), (3723, "1:02:03 h")])
def test_durations_read_as_clocks(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB")])
def test_sizes_are_short(count: int, text: str) -> None:
    assert tables.size(count) == text


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.one_of(st.integers(), st.booleans(), st.none()))
)
def test_settings_come_back_as_they_were_given(settings: dict[str, Any]) -> None:
    import json

    pairs = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    assert options.settings_of(pairs, "--set") == settings


def test_a_setting_that_is_no_json_is_text() -> None:
    assert options.settings_of(["schedule=cosine", "text=a=b"], "--set") == {"schedule": "cosine", "text": "a=b"}
    with pytest.raises(errors.InvalidSpec, match="'=3'"):
        options.settings_of(["=3"], "--set")


def test_everything_becomes_json() -> None:
    now = datetime.now(UTC)
    value = {"a": (1, Path("/x")), "b": {now}, "c": errors.Problem(what="w")}
    assert tables.plain(value) == {
        "a": [1, "/x"],
        "b": [now.isoformat()],
        "c": {"what": "w", "where": "", "fix": ""},
    }


def pair(module: str = "", **changes: Any) -> PairConflict:
    measures = {"output_overlap": 0.05, "input_overlap": 0.95, "cosine": 0.1, "sign_conflict": 0.4, "norm_ratio": 0.8}
    return PairConflict(module=module, first="law/1", second="style/2", **{**measures, **changes})


def test_conflicts_show_pairs_the_worst_modules_and_the_advice() -> None:
    modules = tuple(pair(f"layers.{n}.q_proj", sign_conflict=n / 20) for n in range(20))
    report = ConflictReport(
        parents=("law/1", "style/2"), pairs=(pair(),), modules=modules, advice="merge", reasons=("they hardly meet",)
    )
    text = drawn(reports.conflicts(report))
    assert "law/1 + style/2" in text
    assert "layers.19.q_proj" in text
    assert "layers.0.q_proj" not in text
    assert "advice: merge" in text
    assert "they hardly meet" in text


def test_a_composition_shows_what_each_parent_keeps_and_what_was_tried() -> None:
    report = CompositionReport(
        strategy="tsv",
        scale=0.8,
        rank=64,
        conflicts=ConflictReport(parents=("law/1", "style/2")),
        retention=(
            Retention(
                parent="law/1",
                status="measured",
                base=3.0,
                own=2.0,
                composed=2.1,
                linear=2.3,
                retention=0.9,
                examples=12,
            ),
            Retention(parent="style/2", status="unmeasured"),
        ),
        candidates=(
            Candidate(strategy="linear", scale=0.5, losses=(2.3, None), worst=0.7, mean=0.7),
            Candidate(strategy="tsv", scale=0.8, losses=(2.1, None), worst=0.9, mean=0.9),
        ),
        below_retention=("law/1",),
        advice=("keep law/1 apart and switch",),
    )
    text = drawn(reports.composition(report))
    lines = [line.split() for line in text.splitlines()]
    assert ["law/1", "3.000", "2.000", "2.100", "2.300", "0.900", "12"] in lines
    assert any(line[:1] == ["style/2"] and "unmeasured" in line for line in lines)
    assert text.index("tsv") < text.index("linear ")
    assert "below the asked retention: law/1" in text
    assert "advice: keep law/1 apart and switch" in text


def test_other_reports_are_drawn() -> None:
    merged = MergeReport(
        out="/m", modules=210, bytes_written=270_000_000, seconds=1.5, max_logit_difference=0.01, argmax_agreement=1.0
    )
    assert "270.0 MB in 1.5 s" in drawn(reports.draw(merged))
    evaluated = EvaluationReport(
        evaluator="held_out_loss", dataset="a" * 64, results={"base": {"loss": 3.2}, "law/1": {"loss": 2.5}}
    )
    text = drawn(reports.draw(evaluated))
    assert text.index("base") < text.index("law/1")
    assert "3.2" in text
    before, after = (TokenMetrics(loss=loss, accuracy=0.5, tokens=10, examples=5) for loss in (2.0, 1.5))
    assert reports._before_after(before, after) == "2.000 -> 1.500 (-25.0%, 5 examples)"
    assert "out" in drawn(reports.draw({"format": "vllm", "out": "/x"}))


def test_one_example_is_not_several() -> None:
    assert [tables.counted(number, "example") for number in (0, 1, 2, 1234)] == [
        "0 examples",
        "1 example",
        "2 examples",
        "1,234 examples",
    ]


def test_the_data_report_is_one_line() -> None:
    report = DataReport(
        examples=20, validation_examples=4, tokens=1000, label_tokens=250, length_mean=50.0, length_max=80,
        length_p95=75, truncated=1, duplicates=2, steps=6, seconds=12.0,
    )  # fmt: skip
    line = progress.describe(event("report", name="data", report=report.model_dump(mode="json")))
    assert line == (
        "  20 examples and 4 held out, 1,000 tokens, 25% of them learnt, 50 an example, 80 at most, "
        "1 truncated, 2 repeated; 6 steps, about 12 s"
    )


def test_a_reproduction_says_that_it_is_the_same_or_where_and_why_not() -> None:
    same = ReproductionReport(
        adapter="a/1", kind="train", identical=True, identity="1" * 64, reproduced_identity="1" * 64, compared=2,
        seconds=3.0,
    )  # fmt: skip
    assert "byte for byte" in drawn(reports.draw(same))
    tensors = (TensorDifference(name="q.lora_B.weight", relative=1e-3, largest=0.5),)
    causes = (Change(name="threads", original=2, reproduced=1),)
    other = same.evolve(identical=False, reproduced_identity="2" * 64, tensors=tensors, causes=causes)
    text = drawn(reports.draw(other))
    for shown in ("1 of 2 tensors differ", "q.lora_B.weight", "1.00e-03", "threads"):
        assert shown in text
    assert "nothing that lineage records" in drawn(reports.draw(other.evolve(causes=())))


@pytest.mark.parametrize(("text", "rank"), [("auto", "auto"), ("8", 8), ("-1", -1)])
def test_a_rank_is_a_number_or_auto(text: str, rank: int | str) -> None:
    assert options.Rank().convert(text, None, None) == rank
    with pytest.raises(click.BadParameter, match="neither a number nor auto"):
        options.Rank().convert(f"{text}x", None, None)
