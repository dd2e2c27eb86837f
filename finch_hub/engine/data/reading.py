"""Data sets read from files and from Python values, and stored in canonical form. Free of torch."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, Unpack

import finch_hub
from finch_hub import errors
from finch_hub.engine.data import (
    arrow_rows,
    csv_rows,
    json_rows,
    json_values,
    python_rows,
    row,
    row_formats,
    text_encoding,
)
from finch_hub.engine.data.data_files import (
    ADDRESS,
    ADDRESS_FIX,
    STDIN,
    SUFFIXES,
    DataFile,
    exists,
    is_data_file,
    is_unreadable,
    list_neighbors,
    open_file,
)
from finch_hub.engine.data.row import Row
from finch_hub.engine.data.row_collector import IN_PYTHON, ReadData, RowCollector
from finch_hub.specs.examples import Example, Rows
from finch_hub.specs.reading import DataWarning, ReadingConfig, ReadingOptions

Split = Literal["train", "validation"]
# Names of `datasets`: a file's or folder's name starts with the split, and the next character is not a letter.
_SPLITS = re.compile(
    r"(?:(?P<train>train|training)|(?P<validation>validation|valid|val|dev)|(?P<test>test|testing|eval|evaluation))"
    r"(?![a-z])",
    re.IGNORECASE,
)
# JSON files that `datasets` and the Hub write beside the data.
_METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"})
_MAX_NAMED = 5
_MAX_SETTINGS = 2**20  # bytes


def read_examples(
    source: str | Path | Rows,
    *,
    formats: Sequence[row_formats.RowFormat] = row_formats.BUILTIN,
    split: Split = "train",
    **options: Unpack[ReadingOptions],
) -> tuple[Example, ...]:
    """Return the examples of files or rows. What was left out or not used is a `DataWarning`.

    The arguments and errors are those of :func:`read_data`, the options those of `ReadingConfig`.
    """
    data = read_data(source, ReadingConfig(**options), formats=formats, split=split)
    warn(data)
    return data.examples


def read_data(
    source: str | Path | Rows,
    config: ReadingConfig | None = None,
    *,
    formats: Sequence[row_formats.RowFormat] = row_formats.BUILTIN,
    split: Split = "train",
    also_read: Split | None = None,
    keep: Callable[[Example], None] | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> ReadData:
    """Read a file, a folder of files, standard input, or rows of Python values.

    A row that cannot be used is left out and reported. If too many rows cannot be used, the data is refused.

    Args:
        source: file, folder as the Hugging Face Hub and `datasets` lay it out, or "-" for standard input; otherwise
            rows: (prompt, completion) pairs, mappings with the columns of a format, examples, or a table of them.
        config: how rows are read; None recognizes everything.
        formats: row formats. Each row is read in the first format whose fields it has.
        split: split of a folder, or of a mapping of splits.
        also_read: split that the caller reads too, so that its files do not count as left out.
        keep: called with each example, also if the data is refused later; the result then has no examples.
        progress: called with the number of rows so far, every few thousand rows.

    Raises:
        NotFound: the path or the format does not exist.
        InvalidDataset: the data cannot be read, or too many rows cannot be used; contains their problems.
    """
    config = config or ReadingConfig()
    if not isinstance(source, (str, Path)):
        collector = RowCollector(IN_PYTHON, config, formats, progress, keep)
        collector.add_all(python_rows.read_items(python_rows.select_split(source, split)))
        if split == "train" and (unread := python_rows.list_other_splits(source, (split, also_read))):
            collector.recognized.append(f"splits that were not read: {', '.join(unread[:_MAX_NAMED])}")
        return collector.finish()
    if not str(source):
        raise errors.InvalidDataset("no data is named", fix="name a file, a folder or a data set")
    if source == STDIN:
        collector = RowCollector("standard input", config, formats, progress, keep)
        _add_file(collector, STDIN, config, "")
        return collector.finish()
    if ADDRESS.match(str(source)):
        raise errors.InvalidDataset("is an address, which is not read", fix=ADDRESS_FIX, subject=str(source))
    path = Path(source)
    if not exists(path):
        raise errors.NotFound("data file", str(path), list_neighbors(path))
    collector = RowCollector(str(path), config, formats, progress, keep)
    files = _find_files(path, split)
    if len(files) > 1 and (settings := [file for file in files if _holds_settings(file, collector)]) != files:
        files = [file for file in files if file not in settings]
    for file in files:
        _add_file(collector, file, config, f"{file.relative_to(path)} " if len(files) > 1 else "")
    if path.is_dir():
        _tell_unread(collector, path, files, (split, also_read), config)
    return collector.finish()


def warn(data: ReadData) -> None:
    """Issue a `DataWarning` for everything about the data that users should know, at the line of their call."""
    for text in data.notes:
        warnings.warn(text, DataWarning, stacklevel=_count_own_frames())


def _count_own_frames() -> int:
    """Return the `stacklevel` of the first frame outside this package, whichever function of it was called."""
    package = str(Path(finch_hub.__file__).parent) + os.sep
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    return level


def has_validation(source: str | Path | Rows) -> bool:
    """Tell whether the data is a folder, or a mapping of splits, with a validation split."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        return exists(path) and path.is_dir() and bool(_find_files(path, "validation"))
    return python_rows.select_split(source, "validation") is not None


def dump_examples(examples: Iterable[Example]) -> bytes:
    """Return examples in canonical form, whose hash identifies a dataset: JSONL, one order of keys, no defaults."""
    return b"".join(dump_example(example) for example in examples)


def load_examples(lines: Iterable[bytes]) -> tuple[Example, ...]:
    """Read the lines of :func:`dump_examples`, such as an open file."""
    return tuple(Example.of(line) for line in lines)


def dump_example(example: Example) -> bytes:
    """Return the line of one example in canonical form."""
    fields = example.model_dump(exclude_defaults=True)
    # Schemas and calls are dumped in the order in which templates render them.
    for name in ("tools", "documents"):
        if name in fields:
            fields[name] = json_values.order_keys(list(fields[name]))
    if messages := fields.get("messages"):
        fields["messages"] = [dict(sorted(message.items())) for message in messages]
    return f"{json.dumps(dict(sorted(fields.items())), ensure_ascii=False, separators=(',', ':'))}\n".encode()


def _add_file(collector: RowCollector, file: Path | str, config: ReadingConfig, prefix: str) -> None:
    """Add the rows of a file. What keeps a file from being read is a problem of all data."""
    try:
        with open_file(file, config.file_format) as data:
            if data.compression:
                collector.recognized.append(f"{prefix}decompressed as {data.compression}")
            collector.add_all(_read_rows(data, config, collector, prefix), prefix)
    except errors.InvalidDataset as error:
        for problem in error.problems:
            where = f"{prefix}{problem.where}".strip()
            collector.fail(errors.Problem(what=problem.what, where=where, fix=problem.fix))


def _read_rows(data: DataFile, config: ReadingConfig, collector: RowCollector, prefix: str) -> Iterator[Row]:
    """Yield the rows of a file, and add what was recognized about it."""
    if data.format in ("parquet", "arrow"):
        yield from arrow_rows.read_arrow(data.stream, is_parquet=data.format == "parquet")
        return
    with _decode(data.stream, config, collector.recognized, prefix) as stream:
        try:
            yield from _read_text(stream, data.format, config, collector, prefix)
        except UnicodeError:
            what, fix = f"is not {stream.encoding.upper()}", row.ENCODING_FIX
            raise errors.InvalidDataset(what, fix=fix) from None


def _read_text(
    stream: io.TextIOWrapper, file_format: str, config: ReadingConfig, collector: RowCollector, prefix: str
) -> Iterator[Row]:
    if file_format in ("jsonl", "json"):
        yield from json_rows.read_json(stream, prefers_document=file_format == "json", is_row=collector.fits)
        return
    delimiter = config.delimiter
    if delimiter is not None:
        csv_rows.check_delimiter(stream, delimiter)
    else:
        delimiter, label = csv_rows.recognize_delimiter(stream)
        if label not in ("", "tab" if file_format == "tsv" else "comma"):
            told = f"{prefix}columns are separated by the {label} (--delimiter names another character)"
            collector.recognized.append(told)
    yield from csv_rows.read_csv(stream, delimiter)


def _decode(stream: BinaryIO, config: ReadingConfig, recognized: list[str], prefix: str) -> io.TextIOWrapper:
    if config.encoding:
        encoding = text_encoding.TextEncoding(config.encoding)
        if told := text_encoding.check(stream, config.encoding):
            recognized.append(f"{prefix}{told}")
    else:
        encoding = text_encoding.recognize(stream)
    if encoding.label:
        recognized.append(f"{prefix}read as {encoding.label} (--encoding names another encoding)")
    # Undecodable bytes become half surrogates, by which readers find the damaged lines.
    return io.TextIOWrapper(stream, encoding=encoding.codec, errors="surrogateescape", newline="")


def _find_files(path: Path, split: Split) -> list[Path]:
    """Return the data files of a split, which their names tell. Without files named train, those without a split are.

    If all files are of one split, they are the train split, whatever its name.
    """
    if not path.is_dir():
        return [path]
    files = _list_data_files(path)
    splits = {file: _split_of(file.relative_to(path)) for file in files}
    names = set(splits.values())
    if len(names) < 2:
        return files if split == "train" else []
    wanted = None if split == "train" and "train" not in names else split
    return [file for file in files if splits[file] == wanted]


def _list_data_files(folder: Path) -> list[Path]:
    return [file for file in _list_files(folder) if is_data_file(file) and not _is_metadata(file)]


def _list_files(folder: Path) -> list[Path]:
    """Return the files of a folder without those that systems and editors hide."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(
        file for file in files if not any(part.startswith((".", "__MACOSX")) for part in file.relative_to(folder).parts)
    )


def _tell_unread(
    collector: RowCollector,
    folder: Path,
    files: Sequence[Path],
    splits: tuple[Split, Split | None],
    config: ReadingConfig,
) -> None:
    """Tell which files of a folder were not read, and refuse a folder without files of the first split."""
    others = [file.relative_to(folder) for file in _list_data_files(folder) if file not in files]
    if not files and others:
        what = f"has no file of the {splits[0]} split, only {_list_names(others)}"
        collector.fail(errors.Problem(what=what, fix="name the file to read"))
    elif not files:
        what = f"has no file that can be read: {', '.join(SUFFIXES)}"
        collector.fail(errors.Problem(what=what, fix="name a file, or a folder with such files"))
    elif splits[0] == "train":
        settings = [file for file in others if _holds_settings(folder / file, collector)]
        others = [file for file in others if file not in settings]
        if settings:
            collector.recognized.append(f"files that hold no rows: {_list_names(settings)}")
        if unread := [file for file in others if _split_of(file) is None or _split_of(file) not in splits]:
            collector.recognized.append(f"files that are not of the train split: {_list_names(unread)}")
        missed = [file for file in others if _split_of(file) is None]
        if missed and config.strict:
            what = f"has files that are of no split, and would not be read: {_list_names(missed)}"
            collector.fail(errors.Problem(what=what, fix="begin their names with train, validation or test"))
    rest = [file.relative_to(folder) for file in _list_files(folder) if is_unreadable(file)]
    if files and rest:
        collector.recognized.append(f"files that were not read: {_list_names(rest)}")


def _list_names(files: Sequence[Path]) -> str:
    more = f" and {len(files) - _MAX_NAMED} more" if len(files) > _MAX_NAMED else ""
    return ", ".join(map(str, files[:_MAX_NAMED])) + more


def _split_of(file: Path) -> str | None:
    """Return the split in the file's name, else in the name of the nearest folder."""
    matches = (_SPLITS.match(part) for part in reversed(file.parts))
    return next((match.lastgroup for match in matches if match), None)


def _holds_settings(file: Path, collector: RowCollector) -> bool:
    """Tell whether a JSON file is one object that is not a row, such as the settings of a program."""
    if file.suffix.lower() != ".json" or file.stat().st_size > _MAX_SETTINGS:
        return False
    with contextlib.suppress(OSError, ValueError, errors.InvalidDataset):
        value = json_values.parse(file.read_text(encoding="utf-8-sig"))
        return (
            isinstance(value, dict) and not collector.fits(value) and not json_rows.find_wrapped(value, collector.fits)
        )
    return False


def _is_metadata(file: Path) -> bool:
    return file.name in _METADATA or (file.suffix.lower() == ".arrow" and file.name.startswith("cache-"))
