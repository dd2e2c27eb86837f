"""Ranks that vLLM serves, and the options with which its server does."""

from __future__ import annotations

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for ``--max-lora-rank``."""
DEFAULT_RANK = 16


def find_rank(largest: int) -> int | None:
    """Return the smallest rank of vLLM that holds a rank, None if there is none."""
    return next((allowed for allowed in RANKS if allowed >= largest), None)


def name_options(rank: int) -> list[str]:
    """Return the options of a server that serves adapters of a rank."""
    return ["--enable-lora", *(["--max-lora-rank", str(rank)] if rank > DEFAULT_RANK else [])]
