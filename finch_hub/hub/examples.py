"""Examples as users give them: checked, then stored under the hash of their canonical bytes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors, settings
from finch_hub.engine.data import data_files, reading, row_formats
from finch_hub.engine.data.data_folders import Split
from finch_hub.engine.data.example_file import ExampleFile
from finch_hub.plugins import foreign_code
from finch_hub.plugins.first_load import PluginWarning
from finch_hub.registry import datasets, values
from finch_hub.specs.addresses import strip_credentials
from finch_hub.specs.examples import Example, Rows
from finch_hub.specs.options import name_option
from finch_hub.specs.reading import LIMITS, ReadingConfig
from finch_hub.specs.reports import ReadingReport
from finch_hub.storage.backup import hash_file

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.storage.stores import Stores

DataSource = str | Path | Rows
"""A file or folder, "-" for standard input, the name or digest of a stored data set, or the rows themselves."""
Progress = Callable[[int], None]
"""Called with the number of rows that were read, every few thousand rows."""


_MAX_FORMAT = 96  # characters, as in the database


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredExamples:
    """Examples whose canonical bytes are in the artifact store.

    Attributes:
        made_of: digests of the stored data sets that the examples were read from.
    """

    digest: str
    format: str
    examples: int
    bytes: int
    made_of: tuple[str, ...] = ()


def read_examples(
    data: DataSource,
    stores: Stores,
    config: ReadingConfig,
    keep: Callable[[Example], None],
    *,
    split: Split = "train",
    also_read: Split | None = None,
    prefers_file: bool = False,
    progress: Progress | None = None,
    checks_ignored: bool = True,
    beside_file: bool = False,
    made_of: set[str] | None = None,
) -> ReadingReport:
    """Read the examples of a data source, and warn of everything about the data that users should know.

    Args:
        keep: called with each example.
        also_read: split of a folder that the caller reads too, so that its files do not count as left out.
        prefers_file: whether a name is that of a file if there is also a stored data set of that name.
        checks_ignored: whether a column to ignore that no row has is reported; false for data beside other data.
        beside_file: whether the options are also for a file, so that a stored data set passes them over.
        made_of: gets the digest of the stored data set that was read.

    Raises:
        InvalidReference: a name is both that of a file and of a stored data set.
        NotFound: there is no such file, data set or format.
        InvalidDataset: the data cannot be read, or too many rows cannot be used; contains their problems.
        Conflict: the data set was purged.
    """
    source = settings.expand_home(data) if isinstance(data, str | Path) and str(data) not in ("", "-") else data
    if isinstance(data, str) and data_files.ADDRESS.match(data):
        raise errors.InvalidDataset(
            "is an address, which is not read", fix=data_files.ADDRESS_FIX, subject=strip_credentials(data)
        )
    if isinstance(source, Path) and not data_files.exists(source):
        dataset = _load_stored(str(data), source, stores, ReadingConfig() if beside_file else config, keep)
        if made_of is not None:
            made_of.add(dataset.digest)
        return ReadingReport(rows=dataset.examples, formats={dataset.format: dataset.examples})
    if isinstance(data, str) and not prefers_file and "/" not in data and data == str(source):
        _check_one_meaning(data, stores)
    formats = _load_formats(stores)
    # Rows in Python may come from code of the user, whose changes of the process stay.
    has_plugins = isinstance(source, str | Path) and any(row_format.plugin for row_format in formats)
    try:
        with foreign_code.keep_process(keeps_input=True) if has_plugins else contextlib.nullcontext():
            found = reading.read_data(
                source,
                config,
                formats=formats,
                split=split,
                also_read=also_read,
                keep=keep,
                progress=progress or (lambda rows: None),
                checks_ignored=checks_ignored,
            )
    except (errors.InvalidDataset, errors.NotFound):
        if disabled := stores.catalog.describe_disabled():
            warnings.warn(f"formats of these plugins are missing: {disabled}", PluginWarning, stacklevel=2)
        raise
    reading.warn(found)
    return found.report


def check_system(system: str | None) -> None:
    """Refuse a system prompt that cannot be stored.

    Raises:
        InvalidSpec: it has half of a surrogate pair.
    """
    try:
        (system or "").encode()
    except UnicodeEncodeError:
        raise errors.InvalidSpec("has half of a surrogate pair", where="system", fix="repair its text") from None


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
    name: str, path: Path, stores: Stores, config: ReadingConfig, keep: Callable[[Example], None]
) -> values.Dataset:
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
    for example in _read_stored(name, stores.artifacts.read_lines(dataset.digest)):
        keep(example)
    return dataset


def _read_stored(name: str, lines: Iterable[bytes]) -> Iterator[Example]:
    try:
        for line in lines:
            yield Example.of(line)
    except (errors.InvalidSpec, errors.MissingArtifact, errors.RefusedArtifact):
        what, fix = "its stored text is missing or damaged", "add its data again with `finch-hub datasets add FILE`"
        raise errors.RefusedArtifact(what, where=f"data set {name}", fix=fix) from None


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
        row_formats.RowFormat(
            name=name,
            fields=descriptor.recognizes,
            convert=row_formats.LateConverter(descriptor.load) if descriptor.plugin else descriptor.load(),
            plugin=descriptor.plugin,
        )
        for name, descriptor in stores.catalog.dataset_formats.items()
    ]


def store_examples(
    examples: ExampleFile, stores: Stores, report: ReadingReport, *, made_of: Collection[str] = (), keeps: bool = True
) -> StoredExamples:
    """Store the canonical bytes of the examples, with their formats and the data sets that they were read from.

    Args:
        keeps: whether they are stored; otherwise they are only hashed.
    """
    return StoredExamples(
        digest=stores.artifacts.put_file(examples.path) if keeps else hash_file(examples.path),
        format=", ".join(report.formats)[:_MAX_FORMAT] or "messages",
        examples=len(examples),
        bytes=examples.size,
        made_of=tuple(sorted(made_of)),
    )


def hold_sources(session: Session, stored: Sequence[StoredExamples]) -> None:
    """Keep the data sets that examples were read from, until the commit that registers the examples.

    Otherwise a purge of such a data set could miss what was made of it.

    Raises:
        Conflict: a data set was purged meanwhile.
    """
    datasets.hold(session, {digest for part in stored for digest in part.made_of})


def register_examples(
    session: Session,
    stored: StoredExamples,
    stores: Stores,
    *,
    name: str | None = None,
    replace: bool = False,
    of_jobs: bool = False,
) -> values.Dataset:
    """Register stored examples as a data set. It takes the license of the data that it was made of.

    Raises:
        Conflict: the name is that of other examples, the examples have another name, or were removed meanwhile.
    """

    def check_stored() -> None:
        if not stores.artifacts.has(stored.digest):
            what = f"data set {name or stored.digest[:12]} was removed while it was stored (try again)"
            raise errors.Conflict(f"could not register the data: {what}")

    dataset = datasets.add(
        session,
        digest=stored.digest,
        format=stored.format,
        examples=stored.examples,
        size=stored.bytes,
        name=name,
        replace=replace,
        of_jobs=of_jobs,
        check_stored=check_stored,
    )
    datasets.add_sources(session, dataset.digest, stored.made_of)
    licenses = datasets.list_licenses(session, stored.made_of)
    is_known = len(licenses) == len(stored.made_of) and len(set(licenses.values())) == 1
    if dataset.license is None and is_known:
        return datasets.set_license(session, dataset.digest, next(iter(licenses.values())))
    return dataset
