"""Base models: found by name or source, fetched to a local folder, registered by their fingerprint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors, settings
from finch_hub.artifacts.license_fields import find_license
from finch_hub.engine.bases import sources, weight_shapes
from finch_hub.engine.bases.fingerprint import compute_fingerprint
from finch_hub.formats.folder_removal import remove_folder
from finch_hub.formats.gguf_header import check_gguf_header
from finch_hub.formats.model_files import read_config
from finch_hub.plugins.catalog import BUILTIN
from finch_hub.registry import bases, values
from finch_hub.registry.storable import make_storable
from finch_hub.specs.addresses import refuse_credentials
from finch_hub.specs.bases import MAX_ID, BaseDescription, is_hub_id
from finch_hub.specs.jobs import BaseModelSource
from finch_hub.specs.licenses import check_license
from finch_hub.specs.references import check_name
from finch_hub.storage.base_registration import find_earlier_fingerprint
from finch_hub.storage.changes import Change, changing

if TYPE_CHECKING:
    from finch_hub.engine.bases.base import Base as LoadedBase
    from finch_hub.storage.stores import Stores


class AddedBase(values.Base):
    """A registered base.

    Attributes:
        renamed_from: name that the same files had before; None if they had none, or have the same name.
        earlier: base with the files that the same source had before; None if there is none.
        is_relicensed: whether the files were registered with another license, or none, before.
        license_before: that license.
    """

    renamed_from: str | None = None
    earlier: values.Base | None = None
    is_relicensed: bool = False
    license_before: str | None = None


class RemovedBase(values.Base):
    """A base that was removed.

    Attributes:
        freed: bytes of its converted files, which were removed.
        kept: place of its own files, which Finch Hub did not make and leaves; None if there are none.
    """

    freed: int = 0
    kept: str | None = None


class Bases:
    """The base models that the hub has registered."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def add(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        public_id: str | None = None,
        revision: str | None = None,
        license: str | None = None,  # noqa: A002  (as everywhere)
        replace: bool = False,
        progress: Callable[[str], None] = lambda text: None,
    ) -> AddedBase:
        """Fetch a base to a local folder and register it. A GGUF file is converted once.

        Args:
            source: a folder, a GGUF file, a Hugging Face id, or a plugin's source.
            name: name of the base; None takes the source, or keeps an earlier name of the same files.
            public_id: repository id on the Hugging Face Hub, which configs and cards of adapters name. None takes a
                source that is one, or keeps the id that was given earlier.
            revision: revision of a Hugging Face id.
            license: identifier of its license, such as apache-2.0, or another name. None takes that of its files, or
                keeps an earlier one.
            replace: whether to take the name from another base that has it, and to rename a base with another name.
            progress: called with a few words before each slow step.

        Raises:
            NotFound: there is no such source.
            Incompatible: it holds no usable model.
            InvalidReference: the name is not well formed.
            InvalidInput: the license is not one line of visible characters.
            InvalidSpec: the repository id is not well formed, or the source is an address with credentials.
            Conflict: another base has that name, or these files have another one.
        """
        details = {"revision": revision, "license": license, "replace": replace or None}
        with changing(self._stores, "base.add", name or source, source=str(source), **details) as change:
            return self._add(
                source,
                change,
                name=name,
                public_id=public_id,
                revision=revision,
                given_license=license,
                replace=replace,
                progress=progress,
            )

    def _add(
        self,
        source: str | Path,
        change: Change,
        *,
        name: str | None,
        public_id: str | None,
        revision: str | None,
        given_license: str | None,
        replace: bool,
        progress: Callable[[str], None],
    ) -> AddedBase:
        if source == "":  # as a path, it would be the working directory
            raise errors.NotFound("base", "")
        if name is not None:
            check_name(name, kind="base")
        if public_id is not None and not (len(public_id) <= MAX_ID and is_hub_id(public_id)):
            what = f"{public_id!r} is not a repository id of the Hugging Face Hub"
            raise errors.InvalidSpec(what, where="public_id", fix="give it as owner/name")
        known_license = None if given_license is None else check_license(given_license)
        link: str | None = None
        model_source = source_of(source, revision)
        folder = fetch_base(model_source, self._stores, progress=progress)
        progress("computing the fingerprint")
        digest = compute_fingerprint(folder, cache=self._stores.bases)
        if known_license is None:
            known_license, link = find_license(folder, model_source.source)
        description = BaseDescription(
            name=name or model_source.source,
            source=model_source.source,
            revision=sources.pin(model_source, folder).revision,
            public_id=public_id,
            fingerprint=digest,
            architecture=make_storable((read_config(folder).get("architectures") or ["unknown"])[0]),
            parameters=weight_shapes.count_parameters(folder),
            path=str(folder),
            license=known_license,
            license_link=link,
        )
        earlier = find_earlier_fingerprint(description, self._stores)
        with change.write() as session:
            before = bases.find_name(session, earlier or digest)
            former = bases.find_source(session, description.source, None)
            same = next((base for base in bases.find(session) if base.fingerprint == (earlier or digest)), None)
            added = bases.add(
                session,
                description,
                # Without a given name, files that lost their name to others of the same source get it back.
                rename=name is not None or before == digest,
                replace=replace,
                earlier_fingerprint=earlier,
                license_given=given_license is not None,
            )
            if name is None:
                bases.free_source(session, description)
            if former is not None:
                former = bases.get(session, former.fingerprint) if former.id != added.id else None
            change.on = added.name
            change.details["fingerprint"] = added.fingerprint
        # A base that was named for its revision is not an earlier state.
        if former is not None and former.revision is not None and former.name != former.fingerprint:
            former = None
        return AddedBase(
            **dict(added),
            renamed_from=before if before != added.name else None,
            earlier=former,
            is_relicensed=same is not None and same.license != added.license,
            license_before=same.license if same is not None else None,
        )

    def get(self, name: str) -> values.Base:
        """Return the base with this name or fingerprint.

        Raises:
            NotFound: there is no such base.
        """
        with self._stores.database.read() as session:
            return bases.get(session, name)

    def find(self) -> list[values.Base]:
        """Return the bases, newest first."""
        with self._stores.database.read() as session:
            return bases.find(session)

    def remove(self, name: str) -> RemovedBase:
        """Remove a base, with its files if the hub has converted them. A folder or download of yours stays.

        Raises:
            NotFound: there is no such base.
            Conflict: adapters were made for it, or an unfinished job needs it.
        """
        with self._stores.use_reserve(), changing(self._stores, "base.remove", name) as change:
            return self._remove(name, change)

    def _remove(self, name: str, change: Change) -> RemovedBase:
        copies = self._find_copies(self.get(name))
        with change.write() as session:
            base = bases.remove(session, name, copies=copies)
            change.on = base.name
            change.details["fingerprint"] = base.fingerprint
        folder = Path(base.path) if base.path is not None else None
        if folder is None or not folder.is_dir():
            return RemovedBase(**dict(base))
        place = folder.resolve()
        is_made = self._stores.bases.resolve() in place.parents and place != Path(base.source).resolve()
        if not is_made:
            return RemovedBase(**dict(base), kept=str(folder))
        return RemovedBase(**dict(base), freed=remove_folder(folder))

    def _find_copies(self, base: values.Base) -> list[str]:
        """Return the GGUF files that unfinished jobs load from the folder of a base, since they have the same bytes."""
        from finch_hub.engine.bases import gguf

        if base.path is None or Path(base.path).parent != self._stores.bases:
            return []  # it was not converted
        with self._stores.database.read() as session:
            files = [Path(source) for source in bases.list_needed_sources(session) if sources.is_gguf(source)]
        folder, cache = Path(base.path).name, self._stores.bases
        return [str(file) for file in files if file.is_file() and gguf.folder_of(file, cache=cache).name == folder]

    def resolve(self, base: str | Path, revision: str | None = None) -> tuple[BaseModelSource, Path | None]:
        """Return the source of a base, and its folder if it is on this machine. Nothing is downloaded.

        Args:
            base: a registered name, a folder, a GGUF file, a Hugging Face id (``owner/name``), or a plugin's source.
            revision: revision of a Hugging Face id.

        Raises:
            NotFound: there is no such base; offers similar names.
            Incompatible: the folder holds no usable model, or other files than when the base was added, or the GGUF
                file is not of a whole language model.
            InvalidSpec: it is an address with credentials.
        """
        text = str(base)
        source, catalog = source_of(base, revision), self._stores.catalog
        if revision is None and (known := self._find_registered(text, source)) is not None:
            folder = Path(known.path) if known.path and Path(known.path).is_dir() else None
            sources.check_registered(known, cache=self._stores.bases)
            return sources.source_of(known), folder
        try:
            descriptor = catalog.base_source_of(source.source)
        except errors.NotFound:
            raise self._not_found(text, fix=errors.BASE_FORMS) from None
        if catalog.base_sources.plugin_of(descriptor.name) != BUILTIN:
            return source, None
        path = Path(source.source)
        if path.is_dir():
            return source, fetch_base(source, self._stores)
        if path.is_file() and sources.is_gguf(source.source):
            check_gguf_header(path)  # the job converts it, and refuses the rest
        # The built-in sources accept any name, since a Hugging Face id may have no owner. Here it is a misspelling.
        is_remote = "/" in text and not text.startswith(("/", ".", "~")) and path.suffix.lower() != ".gguf"
        if not path.exists() and not is_remote:
            raise self._not_found(text, fix=errors.BASE_FORMS)
        return source, None

    def _find_registered(self, name: str, source: BaseModelSource) -> values.Base | None:
        """Return the base with this name or fingerprint, or with this file or folder under another name."""
        with contextlib.suppress(errors.NotFound):
            return self.get(name)
        if not Path(source.source).exists():
            return None
        with self._stores.database.read() as session:
            return bases.find_source(session, source.source, None)

    def _not_found(self, name: str, *, fix: str = "") -> errors.FinchError:
        missing = errors.NotFound("base", name, [known.name for known in self.find()], lists_known=True, fix=fix)
        if not missing.near and (disabled := self._stores.catalog.describe_disabled()):
            return errors.PluginError(f"{missing}; perhaps it is of a plugin that is disabled: {disabled}")
        return missing


def source_of(base: str | Path, revision: str | None) -> BaseModelSource:
    """Return the source, with an absolute path, since a worker runs in another folder.

    Raises:
        InvalidSpec: it is an address with credentials.
    """
    path = settings.expand_home(base)
    if not path.exists():
        refuse_credentials(str(base), where="base")
    return BaseModelSource(source=str(path.absolute()) if path.exists() else str(base), revision=revision)


def fetch_base(source: BaseModelSource, stores: Stores, *, progress: Callable[[str], None] = lambda text: None) -> Path:
    """Fetch a base by the first source in the catalog that accepts it, and return its local folder."""
    descriptor = stores.catalog.base_source_of(source.source)
    return descriptor.load()(source, cache=stores.bases, progress=_clean_progress(progress, stores))


def _clean_progress(progress: Callable[[str], None], stores: Stores) -> Callable[[str], None]:
    """Return a function that reports a text without secrets. A plugin may name the address that it uses."""
    return lambda text: progress(stores.redactor.clean(text))


def load_base(
    source: BaseModelSource,
    stores: Stores,
    *,
    device: str = "auto",
    progress: Callable[[str], None] = lambda text: None,
) -> LoadedBase:
    """Fetch a base and load it into memory, with torch."""
    from finch_hub.engine.bases import base

    fetch, report = stores.catalog.base_source_of(source.source).load(), _clean_progress(progress, stores)
    return base.load_base(source, device=device, cache=stores.bases, progress=report, fetch=fetch)
