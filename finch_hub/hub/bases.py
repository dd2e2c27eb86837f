"""Base models: found by name or source, brought to a local folder, registered by their fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.engine.bases import sources, target_modules
from finch_hub.engine.bases.fingerprint import fingerprint
from finch_hub.registry import bases, values
from finch_hub.specs.jobs import BaseModelSource
from finch_hub.specs.references import check_name

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


class Bases:
    """The base models that the hub knows."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def add(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        revision: str | None = None,
        replace: bool = False,
        progress: Callable[[str], None] = lambda text: None,
    ) -> values.Base:
        """Bring a base to a local folder (download it, convert a GGUF file once) and register it.

        Args:
            source: a folder, a GGUF file, a Hugging Face id, or what a plugin accepts.
            name: what to call it; None takes the source's own.
            revision: of a Hugging Face id.
            replace: let the name mean this base from now on, though another one has it.
            progress: told in a few words what takes long.

        Raises:
            NotFound: there is no such source.
            Incompatible: it holds no model that can be used.
            InvalidReference: the name is not well formed.
            Conflict: another base has that name.

        """
        if name is not None:
            check_name(name, kind="base")
        wanted = source_of(source, revision)
        descriptor = self._stores.catalog.base_source_of(wanted.source)
        folder = descriptor.load()(wanted, cache=self._stores.bases, progress=progress)
        progress("computing its fingerprint")
        digest = fingerprint(folder, cache=self._stores.bases)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with self._stores.database.write() as session:
            return bases.add(
                session,
                name=name or wanted.source,
                rename=name is not None,
                replace=replace,
                source=wanted.source,
                revision=wanted.revision,
                fingerprint=digest,
                architecture=str((config.get("architectures") or ["unknown"])[0]),
                parameters=target_modules.parameter_count(folder),
                path=str(folder),
            )

    def get(self, name: str) -> values.Base:
        """Return the base with that name or fingerprint.

        Raises:
            NotFound: there is none.

        """
        with self._stores.database.read() as session:
            return bases.get(session, name)

    def find(self) -> list[values.Base]:
        """Return all bases, newest first."""
        with self._stores.database.read() as session:
            return bases.find(session)

    def resolve(self, base: str | Path, revision: str | None = None) -> tuple[BaseModelSource, Path | None]:
        """Return where a base comes from, and its local folder where it is at hand; nothing is fetched.

        Args:
            base: a registered name, a folder, a GGUF file, or a Hugging Face id (``owner/name``).
            revision: of a Hugging Face id.

        Raises:
            NotFound: it is none of these; offers the near names.
            Incompatible: the folder holds no model that can be used.

        """
        text = str(base)
        if revision is None:
            try:
                known = self.get(text)
            except errors.NotFound:
                pass
            else:
                folder = Path(known.path) if known.path and Path(known.path).is_dir() else None
                return BaseModelSource(source=known.source, revision=known.revision), folder
        path = Path(text).expanduser()
        if path.is_dir():
            return source_of(base, revision), sources.check_folder(path.absolute())
        if path.is_file():
            return source_of(base, revision), None
        is_remote = "/" in text and not text.startswith(("/", ".", "~")) and path.suffix.lower() != ".gguf"
        descriptor = self._stores.catalog.base_source_of(text) if is_remote or "://" in text else None
        if descriptor is None:
            raise errors.NotFound("base", text, [known.name for known in self.find()])
        return source_of(base, revision), None


def source_of(base: str | Path, revision: str | None) -> BaseModelSource:
    """Return the source; a path on this machine becomes absolute, since a worker runs elsewhere."""
    path = Path(base).expanduser()
    return BaseModelSource(source=str(path.absolute()) if path.exists() else str(base), revision=revision)
