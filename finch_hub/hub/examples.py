"""Examples as users give them: checked, then stored under the hash of their canonical bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from finch_hub import errors, settings
from finch_hub.engine.data import data_files, reading, row_formats
from finch_hub.engine.data.data_folders import Split
from finch_hub.engine.data.row_collector import ReadData
from finch_hub.registry import datasets, values
from finch_hub.specs.examples import Example, Rows
from finch_hub.specs.options import name_option
from finch_hub.specs.reading import LIMITS, ReadingConfig
from finch_hub.specs.reports import ReadingReport

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores

DataSource = str | Path | Rows
"""A file or folder, "-" for standard input, the name or digest of a stored data set, or the rows themselves."""
Progress = Callable[[int], None]
"""Called with the number of rows that were read, every few thousand rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredExamples:
    """Examples whose canonical bytes are in the artifact store."""

    digest: str
    format: str
    examples: int
    bytes: int


def read_examples(
    data: DataSource,
    stores: Stores,
    config: ReadingConfig,
    *,
    split: Split = "train",
    also_read: Split | None = None,
    prefers_file: bool = False,
    keep: Callable[[Example], None] | None = None,
    progress: Progress | None = None,
    checks_ignored: bool = True,
    beside_file: bool = False,
) -> ReadData:
    """Return the examples of a data source, and warn of everything about the data that users should know.

    Args:
        also_read: split of a folder that the caller reads too, so that its files do not count as left out.
        keep: called with each example, which is then not in the result.
        prefers_file: whether a name is that of a file if there is also a stored data set of that name.
        checks_ignored: whether a column to ignore that no row has is reported; false for data beside other data.
        beside_file: whether the options are also for a file, so that a stored data set passes them over.

    Raises:
        InvalidReference: a name is both that of a file and of a stored data set.
        NotFound: there is no such file, data set or format.
        InvalidDataset: the data cannot be read, or too many rows cannot be used; contains their problems.
        Conflict: the data set was purged.
    """
    source = settings.expand_home(data) if isinstance(data, str | Path) and str(data) not in ("", "-") else data
    if isinstance(data, str) and data_files.ADDRESS.match(data):
        raise errors.InvalidDataset("is an address, which is not read", fix=data_files.ADDRESS_FIX, subject=data)
    if isinstance(source, Path) and not data_files.exists(source):
        return _load_stored(str(data), source, stores, ReadingConfig() if beside_file else config, keep)
    if isinstance(data, str) and not prefers_file and "/" not in data and data == str(source):
        _check_one_meaning(data, stores)
    found = reading.read_data(
        source,
        config,
        formats=_load_formats(stores),
        split=split,
        also_read=also_read,
        keep=keep,
        progress=progress or (lambda rows: None),
        checks_ignored=checks_ignored,
    )
    reading.warn(found)
    return found


def complete_options(options: Mapping[str, object], stores: Stores) -> ReadingConfig:
    """Return the options of reading, with the limit of the settings unless another one is given.

    Raises:
        InvalidSpec: some options are invalid.
    """
    return ReadingConfig.of({"max_bad_rows": stores.settings.max_bad_rows, **options}, subject="the data")


def _check_one_meaning(name: str, stores: Stores) -> None:
    """Refuse the name of a file or folder in the working directory that is also that of a stored data set."""
    with stores.database.read() as session:
        stored = datasets.find_named(session, name)
    if stored is not None:
        what = f"is both a stored data set and a {'folder' if Path(name).is_dir() else 'file'} of this directory"
        fix = f"write ./{name} for what is in the directory, or {stored.digest[:12]} for the stored data set"
        raise errors.InvalidReference(what, where=name, fix=fix)


def _load_stored(
    name: str, path: Path, stores: Stores, config: ReadingConfig, keep: Callable[[Example], None] | None
) -> ReadData:
    try:
        with stores.database.read() as session:
            dataset = datasets.get(session, name)
    except errors.NotFound as error:
        known = [*data_files.list_neighbors(path), *error.near]
        raise errors.NotFound("data file or data set", name, known) from None
    if dataset.purged_at is not None:
        raise errors.Conflict(f"data set {name} was purged: only its hash and figures are left")
    given = [field for field, value in config.model_dump(exclude=set(LIMITS)).items() if value not in (None, ())]
    if given:
        what = f"is stored, so that {' and '.join(map(name_option, given))} cannot change how it is read"
        raise errors.InvalidDataset(what, fix="leave them out", subject=name)
    examples: list[Example] = []
    for line in stores.artifacts.read_lines(dataset.digest):
        (keep or examples.append)(Example.of(line))
    return ReadData(examples=tuple(examples), report=ReadingReport(rows=dataset.examples))


def is_stored(data: DataSource) -> bool:
    """Tell whether the data is the name or digest of a stored data set, and not a file or rows."""
    is_named = isinstance(data, str | Path) and str(data) not in ("", "-")
    return is_named and not data_files.exists(settings.expand_home(Path(str(data))))


def has_validation(data: DataSource, stores: Stores, config: ReadingConfig) -> bool:
    """Tell whether the data is a folder, or a mapping of splits, with a validation split of its own.

    Raises:
        NotFound: there is no format of that name.
    """
    source = settings.expand_home(data) if isinstance(data, str | Path) else data
    return reading.has_validation(source, config, formats=_load_formats(stores))


def _load_formats(stores: Stores) -> list[row_formats.RowFormat]:
    """Return the row formats of the hub and of its plugins."""
    return [
        row_formats.RowFormat(name=name, fields=descriptor.recognizes, convert=descriptor.load())
        for name, descriptor in stores.catalog.dataset_formats.items()
    ]


class ExampleFile:
    """Temporary file of examples in canonical form, from which they are stored. Only one example is in memory."""

    def __init__(self) -> None:
        with data_files.translate_write_errors():
            self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - __exit__ closes it
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        data_files.close_temporary(self._file)

    def add(self, example: Example) -> None:
        """Write an example."""
        with data_files.translate_write_errors():
            self._file.write(reading.dump_example(example))
        self._count += 1

    def store(self, stores: Stores, *, format_name: str | None = None) -> StoredExamples:
        """Store the canonical bytes of the examples."""
        with data_files.translate_write_errors():
            self._file.flush()
        return StoredExamples(
            digest=stores.artifacts.put_file(Path(self._file.name)),
            format=format_name or "messages",
            examples=self._count,
            bytes=self._file.tell(),
        )


def store_examples(examples: Iterable[Example], stores: Stores, *, format_name: str | None = None) -> StoredExamples:
    """Store the canonical bytes of the examples."""
    with ExampleFile() as file:
        for example in examples:
            file.add(example)
        return file.store(stores, format_name=format_name)


def register_examples(
    session: Session, stored: StoredExamples, *, name: str | None = None, replace: bool = False
) -> values.Dataset:
    """Register stored examples as a data set.

    Raises:
        Conflict: the name is that of other examples, or the examples have another name.
    """
    return datasets.add(
        session,
        digest=stored.digest,
        format=stored.format,
        examples=stored.examples,
        size=stored.bytes,
        name=name,
        replace=replace,
    )
