"""Numbers of things in messages."""

from __future__ import annotations


def format_count(count: int, noun: str) -> str:
    """Format a number of things: 1 example, 2 examples."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
