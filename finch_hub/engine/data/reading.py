"""Data sets read from files and from Python values, and stored in canonical form. Free of torch."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Unpack

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
from finch_hub.engine.data.data_files import ADDRESS, ADDRESS_FIX, STDIN, DataFile, exists, list_neighbors, open_file
from finch_hub.engine.data.data_folders import MAX_NAMED, Split, check_files, find_files
from finch_hub.engine.data.row import Row
from finch_hub.engine.data.row_collector import IN_PYTHON, ReadData, RowCollector
from finch_hub.specs.addresses import strip_credentials
from finch_hub.specs.examples import Example, Rows
from finch_hub.specs.options import name_option
from finch_hub.specs.reading import DataWarning, ReadingConfig, ReadingOptions


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
    checks_ignored: bool = True,
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
        checks_ignored: whether a column to ignore that no row has is reported; false for data beside other data.

    Raises:
        NotFound: the path or the format does not exist.
        InvalidDataset: the data cannot be read, or too many rows cannot be used; contains their problems.
    """
    config = config or ReadingConfig()
    if not isinstance(source, (str, Path)):
        collector = RowCollector(IN_PYTHON, config, formats, progress, keep, checks_ignored=checks_ignored)
        if python_rows.has_splits(source):
            collector.subject = f"{IN_PYTHON}, {split} split"
        _report_unused(collector, config, ("encoding", "delimiter", "file_format"), "a row in Python")
        collector.add_all(python_rows.read_items(python_rows.select_split(source, split, collector.fits)))
        if split == "train" and (unread := python_rows.list_other_splits(source, (split, also_read))):
            collector.recognize(f"splits that were not read: {', '.join(unread[:MAX_NAMED])}")
        return collector.finish()
    if not str(source):
        raise errors.InvalidDataset("no data is named", fix="name a file, a folder or a data set")
    if source == STDIN:
        collector = RowCollector("standard input", config, formats, progress, keep, checks_ignored=checks_ignored)
        _add_file(collector, STDIN, config, "")
        return collector.finish()
    if ADDRESS.match(str(source)):
        subject = strip_credentials(str(source))
        raise errors.InvalidDataset("is an address, which is not read", fix=ADDRESS_FIX, subject=subject)
    path = Path(source)
    if not exists(path):
        raise errors.NotFound("data file", str(path), list_neighbors(path))
    collector = RowCollector(str(path), config, formats, progress, keep, checks_ignored=checks_ignored)
    files = find_files(path, split, collector.fits)
    if path.is_dir() and files:  # a folder can have several splits, whose messages are told apart
        collector.subject = str(files[0]) if len(files) == 1 else f"{path}, {split} split"
    for file in files:
        _add_file(collector, file, config, f"{file.relative_to(path)} " if len(files) > 1 else "")
    if path.is_dir():
        check_files(collector, path, files, (split, also_read), is_strict=config.strict)
    return collector.finish()


def warn(data: ReadData) -> None:
    """Issue a `DataWarning` for everything about the data that users should know, at the line of their call."""
    for text in data.notes:
        warnings.warn(text, DataWarning, stacklevel=_count_own_frames())


def _count_own_frames() -> int:
    """Return the `stacklevel` of the first frame outside this package, whichever function of it was called."""
    package = str(Path(errors.__file__).parent) + os.sep
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    return level


def has_validation(
    source: str | Path | Rows,
    config: ReadingConfig | None = None,
    *,
    formats: Sequence[row_formats.RowFormat] = row_formats.BUILTIN,
) -> bool:
    """Tell whether the data is a folder, or a mapping of splits, with a validation split.

    The arguments and errors are those of :func:`read_data`. They tell files of rows from those of settings.
    """
    is_row = RowCollector("", config or ReadingConfig(), formats, lambda rows: None).fits
    if not isinstance(source, (str, Path)):
        return python_rows.select_split(source, "validation", is_row) is not None
    path = Path(source)
    return exists(path) and path.is_dir() and bool(find_files(path, "validation", is_row))


def dump_examples(examples: Iterable[Example]) -> bytes:
    """Return examples in canonical form, whose hash identifies a dataset: JSONL, one order of keys, no defaults."""
    return b"".join(dump_example(example) for example in examples)


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
                collector.recognize(f"decompressed as {data.compression}", prefix)
            collector.add_all(_read_rows(data, config, collector, prefix), prefix)
    except errors.InvalidDataset as error:
        for problem in error.problems:
            where = f"{prefix}{problem.where}".strip()
            collector.fail(errors.Problem(what=problem.what, where=where, fix=problem.fix))


def _read_rows(data: DataFile, config: ReadingConfig, collector: RowCollector, prefix: str) -> Iterator[Row]:
    """Yield the rows of a file, and add what was recognized about it."""
    if data.format in ("parquet", "arrow"):
        _report_unused(collector, config, ("encoding", "delimiter"), data.format.title(), prefix)
        yield from arrow_rows.read_arrow(data.stream, is_parquet=data.format == "parquet")
        return
    with _decode(data.stream, config, collector, prefix) as stream:
        try:
            yield from _read_text(stream, data.format, config, collector, prefix)
        except UnicodeError:
            what, fix = f"is not {stream.encoding.upper()}", row.advise_encoding()
            raise errors.InvalidDataset(what, fix=fix) from None


def _read_text(
    stream: io.TextIOWrapper, file_format: str, config: ReadingConfig, collector: RowCollector, prefix: str
) -> Iterator[Row]:
    if file_format in ("jsonl", "json"):
        _report_unused(collector, config, ("delimiter",), "JSON", prefix)
        yield from json_rows.read_json(stream, prefers_document=file_format == "json", is_row=collector.fits)
        return
    delimiter = config.delimiter
    if delimiter is not None:
        csv_rows.check_delimiter(stream, delimiter)
    else:
        delimiter, label = csv_rows.recognize_delimiter(stream)
        if label not in ("", "tab" if file_format == "tsv" else "comma"):
            note = f"columns are separated by the {label} ({name_option('delimiter')} names another character)"
            collector.recognize(note, prefix)
    yield from csv_rows.read_csv(stream, delimiter)


def _report_unused(
    collector: RowCollector, config: ReadingConfig, options: Sequence[str], kind: str, prefix: str = ""
) -> None:
    """Report options that are given, but have no meaning for what is read."""
    if given := [name_option(name) for name in options if getattr(config, name) is not None]:
        collector.recognize(f"{kind} has no use for {' and '.join(given)}", prefix)


def _decode(stream: BinaryIO, config: ReadingConfig, collector: RowCollector, prefix: str) -> io.TextIOWrapper:
    if config.encoding:
        encoding = text_encoding.TextEncoding(config.encoding)
        if note := text_encoding.check(stream, config.encoding, max_damaged=config.max_bad_rows):
            collector.recognize(note, prefix)
    else:
        encoding = text_encoding.recognize(stream, max_damaged=config.max_bad_rows)
    if encoding.label:
        collector.recognize(f"read as {encoding.label} ({name_option('encoding')} names another encoding)", prefix)
    # Undecodable bytes become half surrogates, by which readers find the damaged lines.
    return io.TextIOWrapper(stream, encoding=encoding.codec, errors="surrogateescape", newline="")
