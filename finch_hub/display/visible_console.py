"""The terminal, with visible texts only."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from finch_hub.plugins import command_output
from finch_hub.texts.visible_text import to_block


class VisibleConsole(Console):
    """Console that takes texts as they are: without markup, emoji codes, and characters that must not be shown.

    Rich measures and draws texts as they come from `render_str`, so that tables stay aligned.
    """

    def __init__(self, *, stderr: bool, width: int | None, **options: Any) -> None:
        # In a notebook, rich would add an output to the cell for each text, also for a captured one.
        as_it_is: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "force_jupyter": False}
        super().__init__(stderr=stderr, width=width, **as_it_is, **options)

    def on_broken_pipe(self) -> None:
        """Let the command end if the reader of its result has left, not one of messages. Rich itself exits with 1."""
        if not self.stderr:
            raise command_output.ClosedOutput

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text as it is drawn."""
        return super().render_str(to_block(text), **options)
