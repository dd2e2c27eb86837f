"""Pointers of Git LFS: texts that Git leaves in place of large files."""

from __future__ import annotations

from finch_hub import errors

POINTER = b"version https://git-lfs."
"""Beginning of a pointer."""


def check_content(start: bytes, *, name: str) -> None:
    """Check that a file is not a pointer.

    Args:
        start: at least as many of its first bytes as `POINTER` has.
        name: of the file in the message.

    Raises:
        RefusedArtifact: it is one.
    """
    if start.startswith(POINTER):
        fix = "run `git lfs pull` where it was cloned, or download the file itself"
        raise errors.RefusedArtifact("is a pointer of Git LFS, not the file itself", fix=fix, subject=name)
