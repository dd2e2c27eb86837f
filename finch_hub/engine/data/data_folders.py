"""Folders of data files: which files are of a split, and which are not read."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finch_hub import errors
from finch_hub.engine.data import json_rows, json_values
from finch_hub.engine.data.data_files import SUFFIXES, exists, is_data_file, is_unreadable
from finch_hub.formats.regular_files import open_regular_file

if TYPE_CHECKING:
    from finch_hub.engine.data.row_collector import RowCollector

Split = Literal["train", "validation"]
# Names of `datasets`: a file's or folder's name starts with the split, and the next character is not a letter.
_SPLITS = re.compile(
    r"(?:(?P<train>train|training)|(?P<validation>validation|valid|val|dev)|(?P<test>test|testing|eval|evaluation))"
    r"(?![a-z])",
    re.IGNORECASE,
)
# JSON files that `datasets` and the Hub write beside the data.
_METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"})
MAX_NAMED = 5
_MAX_SETTINGS = 2**25  # bytes; tokenizers have some 10 MiB

IsRow = Callable[[Mapping[str, Any]], bool]
"""Tells whether an object has the columns of a row."""


def find_files(path: Path, split: Split, is_row: IsRow) -> list[Path]:
    """Return the data files of a split, which their names tell. Without files named train, those without a split are.

    If all files are of one split, they are the train split, whatever its name. JSON files that hold settings are no
    data files, unless no other file is there.
    """
    if not path.is_dir():
        return [path]
    files = _list_data_files(path)
    if len(files) > 1:
        files = [file for file in files if not _holds_settings(file, is_row)] or files
    splits = {file: _split_of(file.relative_to(path)) for file in files}
    names = set(splits.values())
    if len(names) < 2:
        return files if split == "train" else []
    wanted = None if split == "train" and "train" not in names else split
    return [file for file in files if splits[file] == wanted]


def _list_data_files(folder: Path) -> list[Path]:
    return [file for file in _list_files(folder) if is_data_file(file) and not _is_metadata(file)]


def _list_files(folder: Path) -> list[Path]:
    """Return the files of a folder without those that systems and editors hide.

    Links to files that are missing count, since git-annex and others leave them in place of data.
    """
    paths = (Path(root, name) for root, _, names in os.walk(folder, onerror=_refuse_folder) for name in names)
    files = (path for path in paths if _is_file(path) or _is_broken_link(path))
    return sorted(
        file for file in files if not any(part.startswith((".", "__MACOSX")) for part in file.relative_to(folder).parts)
    )


def _refuse_folder(error: OSError) -> None:
    """Refuse a folder that cannot be listed. One that was removed meanwhile has no files."""
    if not isinstance(error, FileNotFoundError):
        where = errors.shorten(str(error.filename))
        raise errors.InvalidDataset(f"the folder cannot be listed: {error.strerror}", where=where) from error


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises an OSError for links that the system refuses


def _is_broken_link(path: Path) -> bool:
    return path.is_symlink() and not exists(path)


def check_files(
    collector: RowCollector, folder: Path, files: Sequence[Path], splits: tuple[Split, Split | None], *, is_strict: bool
) -> None:
    """Report the files of a folder that were not read, and refuse a folder that lacks files of the first split.

    Args:
        files: files that were read.
        splits: split of these files, and the one that the caller reads, too.
        is_strict: whether files that are of no split are refused.
    """
    read = frozenset(files)
    others = [file.relative_to(folder) for file in _list_data_files(folder) if file not in read]
    if not files and others:
        what = f"has no file of the {splits[0]} split, only {_list_names(others)}"
        collector.fail(errors.Problem(what=what, fix="name the file to read"))
    elif not files:
        what = f"has no file that can be read: {', '.join(SUFFIXES)}"
        collector.fail(errors.Problem(what=what, fix="name a file, or a folder with such files"))
    elif splits[0] == "train":
        settings = dict.fromkeys(file for file in others if _holds_settings(folder / file, collector.fits))
        others = [file for file in others if file not in settings]
        if settings:
            collector.recognize(f"files that hold no rows: {_list_names([*settings])}")
        if unread := [file for file in others if _split_of(file) is None or _split_of(file) not in splits]:
            collector.recognize(f"files that are not of the train split: {_list_names(unread)}")
        missed = [file for file in others if _split_of(file) is None]
        if missed and is_strict:
            what = f"has files that are of no split, and would not be read: {_list_names(missed)}"
            collector.fail(errors.Problem(what=what, fix="begin their names with train, validation or test"))
    rest = [file.relative_to(folder) for file in _list_files(folder) if is_unreadable(file)]
    if files and rest:
        collector.recognize(f"files that were not read: {_list_names(rest)}")


def _list_names(files: Sequence[Path]) -> str:
    more = f" and {len(files) - MAX_NAMED} more" if len(files) > MAX_NAMED else ""
    return ", ".join(map(str, files[:MAX_NAMED])) + more


def _split_of(file: Path) -> str | None:
    """Return the split in the file's name, else in the name of the nearest folder."""
    matches = (_SPLITS.match(part) for part in reversed(file.parts))
    return next((match.lastgroup for match in matches if match), None)


def _holds_settings(file: Path, is_row: IsRow) -> bool:
    """Tell whether a JSON file is one object that holds no rows, such as the settings or the metrics of a program.

    A file that has the name of a split holds no settings if its rows could be in columns that cannot be read.
    """
    if file.suffix.lower() != ".json":
        return False
    with contextlib.suppress(OSError, ValueError, errors.InvalidDataset, errors.RefusedArtifact):
        with open_regular_file(file) as stream:
            begin = stream.read(64)
            is_list = begin.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
            if is_list or os.fstat(stream.fileno()).st_size > _MAX_SETTINGS:
                return False
            text = begin + stream.read(_MAX_SETTINGS)
        value = json_values.parse(text.decode("utf-8-sig"))
        if not isinstance(value, dict) or is_row(value) or json_rows.holds_rows(value, is_row):
            return False
        if _SPLITS.fullmatch(file.stem):
            return False
        return not (_SPLITS.match(file.name) and any(map(json_rows.is_list_of_objects, value.values())))
    return False


def _is_metadata(file: Path) -> bool:
    return file.name in _METADATA or (file.suffix.lower() == ".arrow" and file.name.startswith("cache-"))
