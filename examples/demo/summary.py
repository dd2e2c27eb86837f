"""Summary of the demo: a value that is written as JSON, drawn on one screen."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from finch_hub.display import tables
from finch_hub.formats.atomic_writes import atomic_file

COLUMNS, LINES = 100, 40


def write(summary: Mapping[str, Any], file: Path) -> None:
    """Write the summary as JSON."""
    with atomic_file(file) as temporary:
        temporary.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show(summary: Mapping[str, Any]) -> None:
    """Print the screen, without colors into a pipe."""
    width = None if sys.stdout.isatty() else COLUMNS
    console = Console(width=width, highlight=False, markup=False)
    console.width = min(console.width, COLUMNS)
    console.print(draw(summary))
    for text in _draw_commands(summary):
        console.print(text, soft_wrap=True)  # a line break would end the command


def draw(summary: Mapping[str, Any]) -> RenderableType:
    """Draw the summary on at most 40 lines of 100 columns."""
    machine, seconds = summary["machine"], summary["seconds"]
    total = tables.format_duration(sum(value or 0 for value in seconds.values()))
    title = f"Finch Hub trained, composed and merged {summary['base']} in {total}: {machine['threads']} threads, "
    return Group(
        Text(f"{title}{machine['dtype']}, {machine['tokens_per_second']:,.0f} tokens/s", style="bold"),
        _draw_domains(summary),
        *_draw_answers(summary["answers"]),
        Text(),
        _draw_results(summary),
        Text(),
    )


def _draw_domains(summary: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("adapter")
    kept = f"kept by {summary['composition']['adapter']}"
    for column in ("rows", "held out", "loss on these before", "after", "change", kept, "time"):
        table.add_column(column, justify="right")
    for row in summary["domains"]:
        before, after = row["loss_before"], row["loss_after"]
        table.add_row(
            row["adapter"],
            f"{row['rows']} of {row['all_rows']}",
            str(row["held_out"]),
            f"{before:.3f}",
            f"{after:.3f}",
            f"{after / before - 1:+.0%}",
            "-" if row["retention"] is None else f"{row['retention']:.0%}",
            _clock(row["seconds"]),
        )
    return table


def _draw_answers(answers: Sequence[Mapping[str, Any]]) -> list[Text]:
    lines = []
    for answer in answers:
        lines += [
            _line("asked", answer["question"], answer["name"], style="bold"),
            _line("base", answer["base"]),
            _line("adapter", answer["adapter"]),
        ]
    return lines


def _line(label: str, text: str, name: str = "", *, style: str = "") -> Text:
    """Return a line of one answer, cut at the width of the screen."""
    line = Text(f"{name:<10}", style="bold") + Text(f"{label:<9}", style="dim")
    line.append(" ".join(text.split()), style=style)
    line.truncate(COLUMNS, overflow="ellipsis")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _draw_results(summary: Mapping[str, Any]) -> Table:
    facts, composed, merged = summary["facts"], summary["composition"], summary["merged"]
    count = facts["facts"]
    evaluated = tables.format_count(composed["evaluations"], "evaluation")
    mean = composed["mean_retention"]
    kept = "its parents gained too little to compare" if mean is None else f"keeps {mean:.0%} of the gains on average"
    steps = {name: value for name, value in summary["seconds"].items() if value is not None}
    domains = {row["domain"] for row in summary["domains"]}
    times = [f"{name} {_clock(value)}" for name, value in steps.items() if name not in domains]
    fields = {
        "facts": f"{facts['adapter']} of {count} recalled by {facts['reference']}, {facts['base']} by the base",
        "composed": f"{composed['adapter']}, {kept}: {composed['strategy']} at {composed['scale']:.2f}, rank "
        f"{composed['rank']}, {evaluated}",
        "merged": f"{merged['reference']}, {tables.format_bytes(merged['bytes'])}; PEFT has the same next token at "
        f"{merged['agreement']:.1%} of {merged['places']} places",
        "in": merged["out"],
        "time": ", ".join(times),
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, text in fields.items():
        table.add_row(name, text)
    return table


def _draw_commands(summary: Mapping[str, Any]) -> list[Text]:
    composed, home = summary["composition"]["adapter"], shlex.quote(summary["home"])
    question = summary["answers"][-1]["question"]
    domain = summary["domains"][0]["domain"]
    data = f'"$FINCH_HOME"/demo/rows/{domain}.jsonl'  # also the long rows, which the demo leaves out
    commands = (
        f"finch-hub generate {shlex.quote(question)} --adapter {summary['facts']['reference']}",
        f"finch-hub train {data} --adapter {domain} --base {summary['base']} --preset {domain} --max-steps 16",
        f'finch-hub export {composed} --format gguf --out "$FINCH_HOME"/all-four-gguf',
    )
    texts = (f"To go on: . .venv/bin/activate && export FINCH_HOME={home}", *(f"  {command}" for command in commands))
    return [Text(text) for text in texts]


def _clock(seconds: float | None) -> str:
    minutes, rest = divmod(round(seconds or 0), 60)
    return "-" if seconds is None else f"{minutes}:{rest:02}"
