"""Removal of the texts of rows from the logs of a home."""

from __future__ import annotations

import os
from pathlib import Path

from finch_hub import errors
from finch_hub.storage.row_texts import PIECE, RowTexts

_CHUNK = 2**20
_FILLER = b"*"


def remove_from_logs(folder: Path, texts: RowTexts) -> int:
    """Overwrite the lines with a text of the rows in all files of a folder, and return the number of lines.

    A line keeps its length, since other processes append to the files meanwhile.

    Raises:
        Unavailable: a file cannot be changed.
    """
    num_lines = 0
    for file in sorted(path for path in folder.glob("*.log*") if path.is_file()):
        try:
            num_lines += _remove_from(file, texts)
        except FileNotFoundError:
            continue  # it was rotated away
        except OSError as error:
            what = f"could not remove rows from the log {file}: {error.strerror}"
            raise errors.Unavailable(f"{what} (delete it or let this user write to it, and purge again)") from error
    return num_lines


def _remove_from(file: Path, texts: RowTexts) -> int:
    num_lines = 0
    descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        begin = cleaned = 0
        while data := os.pread(descriptor, _CHUNK, begin):
            for place in texts.find_in(data):
                if begin + int(place) >= cleaned:  # otherwise its line was overwritten before
                    cleaned = _overwrite_line(descriptor, begin + int(place))
                    num_lines += 1
            if len(data) < _CHUNK:
                break
            begin += len(data) - PIECE + 1
    finally:
        os.close(descriptor)
    return num_lines


def _overwrite_line(descriptor: int, place: int) -> int:
    """Overwrite the line around a place in a file, and return where it ends."""
    begin, end = place, place
    while begin > 0:
        size = min(_CHUNK, begin)
        before = os.pread(descriptor, size, begin - size)
        if (newline := before.rfind(b"\n")) >= 0:
            begin += newline + 1 - size
            break
        begin -= size
    while data := os.pread(descriptor, _CHUNK, end):
        if (newline := data.find(b"\n")) >= 0:
            end += newline
            break
        end += len(data)
    for start in range(begin, end, _CHUNK):
        os.pwrite(descriptor, _FILLER * min(_CHUNK, end - start), start)
    return end
