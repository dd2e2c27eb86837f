"""Drawings of rows as a model sees them, and of a training before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finch_hub.display.reports import draw_interim
from finch_hub.display.tables import draw_fields, format_bytes, format_count, format_duration, group
from finch_hub.texts.visible_text import to_block, to_line

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult

    from finch_hub.specs.previews import DataPreview, PreviewPart, PreviewRow, TrainingPreview

_STYLES = {"prompt": "", "learned": "bold green underline", "dropped": "red strike"}
_MARKS = {"prompt": ("", ""), "learned": ("[[", "]]"), "dropped": ("~~", "~~")}


class _Parts:
    """Drawing of the parts of a row: in colors, or between marks where there are none."""

    def __init__(self, parts: Sequence[PreviewPart]) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        text, has_colors = Text("  ", overflow="fold"), _has_colors(console)
        for part in self._parts:
            before, after = ("", "") if has_colors else _MARKS[part.kind]
            shown = to_block(part.text).replace("\n", "\n  ")
            text.append(f"{before}{shown}{after}", style=_STYLES[part.kind] if has_colors else "")
        yield text


class _Legend:
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        if _has_colors(console):
            yield Text.assemble(
                ("learned", _STYLES["learned"]), ", read as a prompt, ", ("dropped", _STYLES["dropped"])
            )
        else:
            yield Text("[[learned]], read as a prompt, ~~dropped~~")


def _has_colors(console: Console) -> bool:
    return console.is_terminal and not console.no_color and console.color_system is not None


def draw_data_preview(preview: DataPreview) -> Group:
    """Draw the first rows of some data, and how the others were read."""
    read = preview.read
    formats = ", ".join(f"{count:,} {name}" for name, count in read.formats.items())
    first = f"The first {format_count(len(preview.rows), 'row')} of {read.rows:,}"
    return group([f"{first} ({formats or 'no format'}), as {preview.base} sees them", *draw_rows(preview.rows)])


def draw_rows(rows: Sequence[PreviewRow]) -> list[RenderableType]:
    """Draw rows below each other, with a legend first."""
    parts: list[RenderableType] = [_Legend()]
    for row in rows:
        if row.problem is not None:
            parts += ["", f"row {row.number} cannot be used: {to_line(row.problem)}"]
            continue
        counts = f"{format_count(row.tokens, 'token')}, {row.learned_tokens:,} learned"
        cut = f", {row.dropped_tokens:,} dropped to fit the maximum length" if row.dropped_tokens else ""
        parts += ["", f"row {row.number}: {counts}{cut}", _Parts(row.parts)]
        parts += [f"  the chat template leaves out ~~{to_line(text)}~~" for text in row.lost]
        parts += [f"  the chat template changes the row: {change}" for change in row.changes]
    return parts


def draw_training_preview(preview: TrainingPreview) -> Group:
    """Draw what a training would do."""
    data, settings = preview.data, {**preview.lora.model_dump(), **preview.training.model_dump()}
    shown = ("rank", "alpha", "target_modules", "learning_rate", "epochs", "batch_size", "seed")
    duration = "unknown: there is no earlier training of this base here to measure by"
    if preview.seconds is not None:
        duration = f"about {format_duration(preview.seconds)}, at the speed of earlier trainings of this base"
    memory = None if preview.memory_bytes is None else f"about {format_bytes(preview.memory_bytes)} of the device"
    fields = {
        "adapter": f"{preview.adapter} on {preview.base}",
        "settings": ", ".join(f"{name.replace('_', ' ')} {settings[name]}" for name in shown),
        "memory": memory or "unknown: the base does not tell its shape",
        "time": duration,
    }
    changed = [f"  the chat template changes {count:,} examples: {what}" for what, count in data.changes.items()]
    report = draw_interim({"name": "data", "report": data.model_dump(mode="json")})
    problems = [f"  left out: {problem}" for problem in data.problems]
    return group([draw_fields(fields), report, *changed, *problems, "", *draw_rows(preview.rows)])
