"""Markdown in which texts of strangers are text, and nothing else."""

from __future__ import annotations

import re

from finch_hub.texts.visible_text import to_block, to_line

_SPECIAL = re.compile(r"[\\`*_\[\]<>#|~&!@{}$]|(?<=www)\.|:(?=//)|^[-+=]", re.IGNORECASE)
_NUMBER = re.compile(r"^(\d{1,9})([.)])")
_PLAIN = re.compile(r"(?!.*www\.)[a-z0-9]+(?:[._-][a-z0-9]+)*", re.IGNORECASE)  # "www." would become a link


def format_text(text: object) -> str:
    """Return a text for a heading, a paragraph or a cell of a table, as code unless it is a plain name."""
    return str(text) if _PLAIN.fullmatch(str(text)) else format_code(text)


def format_code(text: object) -> str:
    """Return a text as code, in which no Markdown, HTML or address counts.

    What would end the code or the cell of a table is escaped, too.
    """
    line = to_line(text).replace("`", r"\x60").replace("|", r"\x7c").strip()
    return f"`{line or '-'}`"


def format_code_block(text: object) -> list[str]:
    """Return the lines of a text as a block of code, which nothing in it can end."""
    return [f"    {line}" for line in to_block(text).split("\n")]


def format_prose(text: object) -> list[str]:
    """Return the lines of a text as paragraphs, in which no Markdown, HTML or address counts."""
    lines = (line.strip() for line in to_block(text).strip().split("\n"))
    return [_NUMBER.sub(r"\1\\\2", _SPECIAL.sub(r"\\\g<0>", line)) for line in lines]
