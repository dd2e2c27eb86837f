"""Reading data sets from files; torch-free. All bad lines of a file are reported at once, by their numbers."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from finch_hub import errors
from finch_hub.engine.data import formats as row_formats
from finch_hub.specs.examples import Example

MAX_LINE_BYTES = 4 * 2**20
"""Longest line that is read. A million words: far beyond any context, so a longer one is a damaged file."""

Split = Literal["train", "validation"]
# As `datasets` names them, where a file's or a folder's name begins so and no other letter follows.
_SPLITS = re.compile(
    r"(?:(?P<train>train|training)|(?P<validation>validation|valid|val|dev)|(?P<test>test|testing|eval|evaluation))"
    r"(?![a-z])",
    re.IGNORECASE,
)
_READERS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".arrow")
_BOM = b"\xef\xbb\xbf"


class _Row(NamedTuple):
    """One row of a file, or what is wrong with it."""

    where: str
    value: Mapping[str, Any] | None
    problem: str = ""
    fix: str = ""


def read_examples(
    path: Path,
    *,
    formats: Sequence[row_formats.Format] = row_formats.BUILTIN,
    format_name: str | None = None,
    split: Split = "train",
) -> tuple[Example, ...]:
    """Read a JSONL, JSON, CSV or Parquet file, or a folder of them (as the Hugging Face Hub and `datasets` lay out).

    Of a folder whose files are split by name, those of one split are read. Rows are recognized one by one by their
    fields, unless `format_name` names one of `formats`.

    Raises:
        NotFound: the path or the format doesn't exist.
        InvalidDataset: with one problem for each bad row, by its line number.

    """
    if not path.exists():
        raise errors.NotFound("data file", str(path), _neighbours(path))
    chosen = [known for known in formats if format_name in (None, known.name)]
    if format_name is not None and not chosen:
        raise errors.NotFound("data set format", format_name, [known.name for known in formats])
    found: list[Example] = []
    problems: list[errors.Problem] = []
    files = _files(path, split)
    for file in files:
        prefix = f"{file.relative_to(path)} " if len(files) > 1 else ""
        for row in _rows(file):
            try:
                found.append(_example(row, chosen))
            except errors.InvalidSpec as error:
                for problem in error.problems:
                    what = f"{problem.where} {problem.what}" if problem.where else problem.what
                    problems.append(errors.Problem(what=what, where=prefix + row.where, fix=problem.fix))
    if not files:
        what = f"no file in it is read: {', '.join(_READERS)}"
        problems.append(errors.Problem(what=what, fix="name a file, or a folder with some of these"))
    elif not found and not problems:
        problems.append(errors.Problem(what="there are no rows", fix="give at least one example"))
    if problems:
        raise errors.InvalidDataset(problems, subject=str(path))
    return tuple(found)


def has_validation(path: Path) -> bool:
    """Tell whether it is a folder with a validation split."""
    return path.is_dir() and bool(_files(path, "validation"))


def dump_examples(examples: Iterable[Example]) -> bytes:
    """Write examples in the one canonical form whose hash identifies a data set: JSONL, sorted keys, no defaults."""
    lines = (
        json.dumps(example.model_dump(exclude_defaults=True), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        for example in examples
    )
    return "".join(f"{line}\n" for line in lines).encode()


def load_examples(data: bytes) -> tuple[Example, ...]:
    """Read what :func:`dump_examples` wrote."""
    return tuple(Example.of(line) for line in data.splitlines())


def _example(row: _Row, formats: Sequence[row_formats.Format]) -> Example:
    if row.value is None:
        raise errors.InvalidSpec(errors.Problem(what=row.problem, fix=row.fix))
    example = row_formats.recognize(row.value, formats).convert(row.value)
    for content in (example.text or "", *(message.content for message in example.messages)):
        try:
            content.encode()
        except UnicodeEncodeError:
            problem = errors.Problem(
                what="has half of a surrogate pair, which is no text", fix="repair its \\u escapes"
            )
            raise errors.InvalidSpec(problem) from None
    return example


def _neighbours(path: Path) -> list[str]:
    return [str(path.parent / other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []


def _files(path: Path, split: Split) -> list[Path]:
    """Return the files of a split; a folder without a train split is not divided: all of it is trained on."""
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if _kind(file) in _READERS and not _is_bookkeeping(file))
    splits = {file: _split_of(file.relative_to(path)) for file in files}
    if "train" in splits.values():
        return [file for file in files if splits[file] == split]
    return files if split == "train" else []


def _split_of(file: Path) -> str | None:
    """Return what the name says; the file's own counts before its folder's."""
    found = (_SPLITS.match(part) for part in reversed(file.parts))
    return next((match.lastgroup for match in found if match), None)


def _is_bookkeeping(file: Path) -> bool:
    """Tell what `datasets` and the Hub put beside the data: JSON files, and caches of what was made of it."""
    names = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")
    return file.name in names or (_kind(file) == ".arrow" and file.name.startswith("cache-"))


def _kind(file: Path) -> str:
    return file.suffix.lower()


def _rows(file: Path) -> Iterator[_Row]:
    match _kind(file):
        case ".json":
            return _json_rows(file)
        case ".csv":
            return _csv_rows(file)
        case ".parquet" | ".arrow":
            return _arrow_rows(file)
        case ".jsonl" | ".ndjson" | "":
            return _jsonl_rows(file)
        case other:
            what = f"is a {other} file, which is none that is read: {', '.join(_READERS)}"
            return iter([_Row("file", None, what, "convert it, or name it by what it holds")])


def _jsonl_rows(file: Path) -> Iterator[_Row]:
    blank: list[int] = []
    for number, line in enumerate(_lines(file), start=1):
        where = f"line {number}"
        if line is None:
            yield _Row(where, None, f"is longer than {MAX_LINE_BYTES // 2**20} MiB", "one JSON object a line")
        elif not line.strip():
            blank.append(number)
        else:
            # Blank lines at the end are an editor's doing; between rows they may be lost data.
            yield from (_Row(f"line {lost}", None, "is empty", "remove the line") for lost in blank)
            blank.clear()
            yield _parsed(line, where)


def _lines(file: Path) -> Iterator[bytes | None]:
    """Yield lines without reading a giant one whole; None stands for one that is too long."""
    with file.open("rb") as stream:
        if stream.peek(len(_BOM)).startswith(_BOM):
            stream.read(len(_BOM))
        while line := stream.readline(MAX_LINE_BYTES):
            if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
                yield line
                continue
            while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield None


def _parsed(line: bytes, where: str) -> _Row:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return _Row(where, None, f"is not UTF-8 at byte {error.start + 1}", "save the file as UTF-8")
    except json.JSONDecodeError as error:
        return _Row(where, None, f"is not JSON: {error.msg} at column {error.colno}", "one JSON object a line")
    except (RecursionError, ValueError) as error:
        return _Row(where, None, f"is not JSON that can be read: {error}")
    return _object(value, where)


def _object(value: Any, where: str) -> _Row:
    if isinstance(value, Mapping):
        return _Row(where, value)
    return _Row(where, None, f"is a {type(value).__name__}, not an object", 'write {"prompt": …, "completion": …}')


def _json_rows(file: Path) -> Iterator[_Row]:
    try:
        data = json.loads(file.read_bytes().removeprefix(_BOM).decode())
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        fix = "a .json file holds one list of objects; one object a line is .jsonl"
        yield _Row("file", None, f"is not JSON: {error}", fix)
        return
    if not isinstance(data, list):
        yield _Row("file", None, "is not a list", "a .json file holds one list of objects; one object a line is .jsonl")
        return
    yield from (_object(value, f"item {number}") for number, value in enumerate(data, start=1))


def _csv_rows(file: Path) -> Iterator[_Row]:
    def text() -> Iterator[str]:
        for line in _lines(file):
            # A replacement character marks what could not be read, so that the row is still counted and reported.
            yield "\ufffd\n" if line is None else line.decode(errors="replace")

    csv.field_size_limit(MAX_LINE_BYTES)  # the module's own limit, which is meant for damaged files as well, is lower
    reader = csv.DictReader(text(), strict=True)
    while True:
        before = reader.reader.line_num
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # An unclosed quote is found where the file ends, and is where the row began.
            first, last = before + 1, reader.reader.line_num
            where = f"line {last}" if first >= last else f"lines {first} to {last}"
            yield _Row(where, None, f"is not CSV: {error}", 'close its quotes, and write " within them as ""')
            continue
        where = f"line {reader.line_num}"
        values = [value for value in row.values() if value is not None]
        if None in row or len(values) < len(row):
            yield _Row(where, None, f"has not as many fields as the header's {len(reader.fieldnames or ())}")
        elif any("\ufffd" in value for value in values):
            yield _Row(where, None, "is not UTF-8", "save the file as UTF-8")
        else:
            yield _Row(where, {name: _cell(value) for name, value in row.items()})


def _cell(value: str) -> Any:
    """Return the list that a cell holds as JSON (how `messages` travel in CSV), or its text."""
    if value.startswith("[{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _arrow_rows(file: Path) -> Iterator[_Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        yield _Row("file", None, "needs pyarrow to be read", "pip install 'finch-hub[parquet]'")
        return
    try:
        number = 0
        with file.open("rb") as stream:
            parquet = _kind(file) == ".parquet"
            batches = pyarrow.parquet.ParquetFile(stream).iter_batches() if parquet else pyarrow.ipc.open_stream(stream)
            for batch in batches:
                for value in batch.to_pylist():
                    number += 1
                    yield _Row(f"row {number}", value)
    except (pyarrow.ArrowException, OSError) as error:
        yield _Row("file", None, f"cannot be read: {error}")
