"""Sample answers in a card, if they are asked for. They quote rows of the data."""

from __future__ import annotations

from finch_hub.formats.markdown import format_code_block, format_text
from finch_hub.specs.evidence import Samples


def format_samples(samples: Samples) -> str:
    """Return sample answers as a section of a card."""
    lines = ["## Sample answers", "", f"Each answer has at most {samples.max_tokens} tokens.", ""]
    before = f"Before, by {format_text(samples.start or 'base')}"
    for sample in samples.samples:
        texts = {"Prompt": sample.prompt, "Expected": sample.expected, before: sample.before, "After": sample.after}
        for title, text in texts.items():
            lines += [f"{title}:", "", *format_code_block(text), ""]
    return "\n".join(lines)
