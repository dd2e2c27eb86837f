"""Pointers of Git LFS in place of the files."""

from __future__ import annotations

import pytest

from finch_hub import errors
from finch_hub.formats import git_lfs


def test_pointer_is_refused_with_what_to_do() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"
    for start in (pointer, pointer[: len(git_lfs.POINTER)]):
        with pytest.raises(errors.RefusedArtifact, match=r"birds\.zip: is a pointer of Git LFS.*git lfs pull"):
            git_lfs.check_content(start, name="birds.zip")


@pytest.mark.parametrize("start", [b"", b"version https://git", b'{"peft_type": "LORA"}', b"\x80\x04}."])
def test_other_content_is_not_refused(start: bytes) -> None:
    git_lfs.check_content(start, name="birds.zip")
