"""Datasets read from files, and stored in canonical form. Free of torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from finch_hub import errors
from finch_hub.engine.data import row_formats
from finch_hub.engine.data.row_readers import SUFFIXES, Row, read_rows
from finch_hub.specs.examples import Example

Split = Literal["train", "validation"]
# Names of `datasets`: a file's or folder's name starts with the split, and the next character is not a letter.
_SPLITS = re.compile(
    r"(?:(?P<train>train|training)|(?P<validation>validation|valid|val|dev)|(?P<test>test|testing|eval|evaluation))"
    r"(?![a-z])",
    re.IGNORECASE,
)
# JSON files that `datasets` and the Hub write beside the data.
_METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"})


def read_examples(
    path: Path,
    *,
    formats: Sequence[row_formats.RowFormat] = row_formats.BUILTIN,
    format_name: str | None = None,
    split: Split = "train",
) -> tuple[Example, ...]:
    """Read a JSONL, JSON, CSV or Parquet file, or a folder of them.

    Args:
        path: file, or folder as the Hugging Face Hub and `datasets` lay it out.
        formats: row formats. Each row is read in the first format whose fields it has.
        format_name: name of the one format to use; None recognizes the format of each row.
        split: split of the folder.

    Raises:
        NotFound: the path or the format does not exist.
        InvalidDataset: one problem for each invalid row, by its line number.
    """
    if not path.exists():
        neighbors = [str(path.parent / other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise errors.NotFound("data file", str(path), neighbors)
    allowed = [row_format for row_format in formats if format_name in (None, row_format.name)]
    if format_name is not None and not allowed:
        raise errors.NotFound("dataset format", format_name, [row_format.name for row_format in formats])
    examples: list[Example] = []
    problems: list[errors.Problem] = []
    files = _find_files(path, split)
    for file in files:
        prefix = f"{file.relative_to(path)} " if len(files) > 1 else ""
        for row in read_rows(file):
            try:
                examples.append(_convert(row, allowed))
            except errors.InvalidSpec as error:
                for problem in error.problems:
                    what = f"{problem.where} {problem.what}" if problem.where else problem.what
                    problems.append(errors.Problem(what=what, where=prefix + row.where, fix=problem.fix))
    if not files:
        what = f"has no file that can be read: {', '.join(SUFFIXES)}"
        problems.append(errors.Problem(what=what, fix="name a file, or a folder with such files"))
    elif not examples and not problems:
        problems.append(errors.Problem(what="has no rows", fix="give at least one example"))
    if problems:
        raise errors.InvalidDataset(problems, subject=str(path))
    return tuple(examples)


def has_validation(path: Path) -> bool:
    """Tell whether the path is a folder with a validation split."""
    return path.is_dir() and bool(_find_files(path, "validation"))


def dump_examples(examples: Iterable[Example]) -> bytes:
    """Return examples in canonical form, whose hash identifies a dataset: JSONL, sorted keys, no defaults."""
    lines = (
        json.dumps(example.model_dump(exclude_defaults=True), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        for example in examples
    )
    return "".join(f"{line}\n" for line in lines).encode()


def load_examples(data: bytes) -> tuple[Example, ...]:
    """Read the bytes of :func:`dump_examples`."""
    return tuple(Example.of(line) for line in data.splitlines())


def _convert(row: Row, formats: Sequence[row_formats.RowFormat]) -> Example:
    if row.value is None:
        raise errors.InvalidSpec(row.problem, fix=row.fix)
    example = row_formats.recognize(row.value, formats).convert(row.value)
    for content in (example.text or "", *(message.content for message in example.messages)):
        try:
            content.encode()
        except UnicodeEncodeError:
            raise errors.InvalidSpec("has half of a surrogate pair", fix="repair its \\u escapes") from None
    return example


def _find_files(path: Path, split: Split) -> list[Path]:
    """Return the data files of a split. All files are in the train split of a folder without split names."""
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and not _is_metadata(file))
    splits = {file: _split_of(file.relative_to(path)) for file in files}
    if "train" in splits.values():
        return [file for file in files if splits[file] == split]
    return files if split == "train" else []


def _split_of(file: Path) -> str | None:
    """Return the split in the file's name, else in the name of the nearest folder."""
    matches = (_SPLITS.match(part) for part in reversed(file.parts))
    return next((match.lastgroup for match in matches if match), None)


def _is_metadata(file: Path) -> bool:
    return file.name in _METADATA or (file.suffix.lower() == ".arrow" and file.name.startswith("cache-"))
