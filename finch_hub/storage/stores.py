"""Stores of a home: database, artifacts and plugins."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finch_hub import errors
from finch_hub.artifacts.store import ArtifactStore
from finch_hub.formats.atomic_writes import remove_abandoned, temporary_place
from finch_hub.plugins.catalog import Catalog, load_catalog
from finch_hub.registry.database import Database
from finch_hub.settings import Settings
from finch_hub.storage import disk_reserve
from finch_hub.storage.redaction import Redactor
from finch_hub.storage.store_marker import StoreMarker


@dataclass(frozen=True, kw_only=True)
class Stores:
    """Open database, artifact store and catalog of plugins, with their settings."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    catalog: Catalog

    @property
    def bases(self) -> Path:
        """Folder of downloaded and converted base models."""
        return self.settings.home / "bases"

    @functools.cached_property
    def redactor(self) -> Redactor:
        """Redactor for the secrets of the settings and of this process."""
        return Redactor.of(self.settings)

    @contextlib.contextmanager
    def use_reserve(self) -> Iterator[None]:
        """Give the reserve of the home to a deletion, and reserve the space again afterwards if the disk has room."""
        disk_reserve.release(self.settings.home)
        try:
            yield
        finally:
            _reserve(self.settings)

    def tidy(self) -> None:
        """Remove what killed processes left in the home and in the system's temporary folder, and old cached files."""
        for folder in (self.settings.home, self.bases):
            remove_abandoned(folder)
        place = temporary_place()
        remove_abandoned(place.parent, place.name)
        self.artifacts.trim_cache()


def open_stores(settings: Settings) -> Stores:
    """Open the stores that the settings name, and keep other users out of the home.

    The artifact store is checked when it is first used (see :class:`StoreMarker`).

    Raises:
        SchemaMismatch: database and code have different schemas.
        Unavailable: the database does not answer, or the home cannot be used.
    """
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # a home that is mounted into a container belongs to another user
            settings.home.chmod(0o700)
    except OSError as error:
        what = f"cannot use the home {settings.home}: {error.strerror} (set FINCH_HOME to a folder of yours)"
        raise errors.Unavailable(what) from error
    database = Database(
        settings.database, allow_insecure=settings.allow_insecure, connections=settings.database_connections
    )
    if settings.database_url is None:
        database.upgrade(is_private=True)
    else:
        database.check()
    _reserve(settings)
    marker = StoreMarker(database, is_of_home=settings.database_url is None and settings.artifacts_url is None)
    return Stores(
        settings=settings, database=database, artifacts=open_artifacts(settings, marker), catalog=load_catalog(settings)
    )


def open_artifacts(settings: Settings, guard: StoreMarker | None) -> ArtifactStore:
    """Open the artifact store that the settings name; without a guard, whatever deployment it belongs to."""
    return ArtifactStore(
        settings.artifacts, cache=settings.cache / "artifacts", guard=guard, is_private=settings.artifacts_url is None
    )


def _reserve(settings: Settings) -> None:
    if settings.database_url is None:  # another database is not on the disk of the home
        disk_reserve.fill(settings.home)
