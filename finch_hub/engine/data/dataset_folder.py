"""Data files of a folder, as the Hugging Face Hub and `datasets` lay it out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from finch_hub.engine.data.row_readers import SUFFIXES

Split = Literal["train", "validation"]
# Names of `datasets`: a file's or folder's name starts with the split, and the next character is not a letter.
_SPLITS = re.compile(
    r"(?:(?P<train>train|training)|(?P<validation>validation|valid|val|dev)|(?P<test>test|testing|eval|evaluation))"
    r"(?![a-z])",
    re.IGNORECASE,
)
# JSON files that `datasets` and the Hub write beside the data.
_METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"})


def find_files(path: Path, split: Split) -> list[Path]:
    """Return the data files of a split. All files are in the train split of a folder without split names."""
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and not _is_metadata(file))
    splits = {file: _split_of(file.relative_to(path)) for file in files}
    if "train" in splits.values():
        return [file for file in files if splits[file] == split]
    return files if split == "train" else []


def has_validation(path: Path) -> bool:
    """Tell whether the path is a folder with a validation split."""
    return path.is_dir() and bool(find_files(path, "validation"))


def _split_of(file: Path) -> str | None:
    """Return the split in the file's name, else in the name of the nearest folder."""
    matches = (_SPLITS.match(part) for part in reversed(file.parts))
    return next((match.lastgroup for match in matches if match), None)


def _is_metadata(file: Path) -> bool:
    return file.name in _METADATA or (file.suffix.lower() == ".arrow" and file.name.startswith("cache-"))
