"""The last screen of the demo."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from examples.demo import summary

DOMAINS = ("medical", "legal", "code", "style")
SUMMARY: dict[str, Any] = {
    "base": "smollm2-135m",
    "home": "/home/María/my finches/.demo",
    "machine": {"dtype": "float32", "threads": 2, "tokens_per_second": 312.4},
    "domains": [
        {
            "domain": name,
            "adapter": f"{name}/1",
            "rows": 44,
            "all_rows": 304,
            "held_out": 16,
            "loss_before": 3.5,
            "loss_after": 2.8,
            "retention": 0.93,
            "seconds": 34.2,
        }
        for name in DOMAINS
    ],
    "facts": {"reference": "knowledge/1", "facts": 12, "base": 0, "adapter": 9},
    "composition": {
        "adapter": "all-four/1",
        "strategy": "regmean",
        "scale": 1.3,
        "rank": 64,
        "evaluations": 4,
        "mean_retention": 0.91,
        "rows": "report",
    },
    "answers": [
        *(
            {"name": name, "question": "What is\nasked? " * 20, "base": "before\n" * 40, "adapter": "after " * 40}
            for name in DOMAINS
        ),
        {"name": "knowledge", "question": "Who makes it?", "base": "I do not know.", "adapter": "Orrin Vale."},
    ],
    "merged": {
        "reference": "all-four/1",
        "out": "/home/María/my finches/.demo/demo/merged-all-four-1",
        "bytes": 272_000_000,
        "agreement": 1.0,
        "error": 0.1,
        "effect": 1.5,
        "places": 57,
    },
    "seconds": dict.fromkeys(("base", "data", "speed", "knowledge", *DOMAINS, "all-four", "answers", "merged"), 61.0),
    "failed_checks": [],
}


def draw(value: dict[str, Any], *, is_terminal: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=summary.COLUMNS, force_terminal=is_terminal, highlight=False, markup=False)
    console.print(summary.draw(value))
    return stream.getvalue()


def test_the_screen_has_everything_on_40_lines_of_100_columns() -> None:
    text = draw(SUMMARY)
    lines = text.splitlines()
    commands = summary._draw_commands(SUMMARY)
    assert len(lines) + sum(1 + len(command) // summary.COLUMNS for command in commands) <= summary.LINES
    assert max(map(len, lines)) <= summary.COLUMNS
    for shown in (
        "in 11:11 min",
        "medical/1",
        "3.500",
        "2.800",
        "-20%",
        "93%",
        "0:34",
        "9 of 12 recalled by knowledge/1, 0 by the base",
        "regmean at 1.30, rank 64, 4 evaluations",
        "91%",
        "272.0 MB",
        "100.0% of 57 places",
        "44 of 304",
        "Orrin Vale.",
    ):
        assert shown in text, shown
    for start in ("base     before before", "adapter  after after"):
        assert text.count(start) == len(DOMAINS), start
    assert "\x1b" not in text
    assert "\x1b" in draw(SUMMARY, is_terminal=True)


def test_commands_are_lines_that_a_terminal_can_take(capsys: pytest.CaptureFixture[str]) -> None:
    home = "/home/María/my finches/" + "far/" * 30 + ".demo"
    summary.show({**SUMMARY, "home": home})
    assert capsys.readouterr().out.splitlines()[-4:] == [
        f"To go on: . .venv/bin/activate && export FINCH_HOME='{home}'",
        "  finch-hub generate 'Who makes it?' --adapter knowledge/1",
        '  finch-hub train "$FINCH_HOME"/demo/rows/medical.jsonl --adapter medical --base smollm2-135m'
        " --preset medical --max-steps 16",
        '  finch-hub export all-four/1 --format gguf --out "$FINCH_HOME"/all-four-gguf',
    ]


def test_figures_that_are_missing_are_dashes() -> None:
    value = copy.deepcopy(SUMMARY)
    for row in value["domains"]:
        row |= {"retention": None, "seconds": None}
    value["composition"]["mean_retention"] = None
    value["seconds"]["base"] = None
    text = draw(value)
    assert "its parents gained too little to compare" in text
    assert [line.split()[-2:] for line in text.splitlines() if line.strip().startswith("style/1 ")] == [["-", "-"]]


def test_a_pipe_gets_plain_text_and_the_file_the_same_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary.show(SUMMARY)
    assert capsys.readouterr().out.startswith(draw(SUMMARY))
    summary.write(SUMMARY, tmp_path / "summary.json")
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8")) == SUMMARY
