"""Adapters: their versions, aliases, tags, lineage and files, and imports."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors, settings
from finch_hub.engine.bases import weight_shapes
from finch_hub.hub.bases import Bases
from finch_hub.registry import adapter_versions, adapters, evaluations, values
from finch_hub.specs.references import AdapterReference, check_name

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


class Adapters:
    """The adapters of the hub. A reference is `name` (the newest ready version), `name/3` or `name@alias`."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def find(
        self, *, name: str | None = None, tag: str | None = None, base: str | None = None, limit: int = 100
    ) -> list[values.AdapterSummary]:
        """Return the adapters whose name contains `name`, with this tag and base."""
        with self._stores.database.read() as session:
            return adapters.find(session, name=name, tag=tag, base=base, limit=limit)

    def get(self, reference: str) -> values.AdapterVersion:
        """Return the version that the reference names.

        Raises:
            NotFound: there is no such adapter, version or alias; offers similar names.
        """
        with self._stores.database.read() as session:
            return adapter_versions.resolve(session, reference)

    def versions(self, name: str) -> list[values.AdapterVersion]:
        """Return the versions of an adapter, newest first."""
        with self._stores.database.read() as session:
            return adapter_versions.find(session, name)

    def folder(self, reference: str) -> Path:
        """Return a local folder with the version's files in PEFT's format. It is shared, so do not change it."""
        return self._stores.artifacts.fetch_tree(self.get(reference).digest)

    def lineage(self, reference: str) -> values.Ancestry:
        """Return the version with its ancestors."""
        with self._stores.database.read() as session:
            return adapter_versions.get_ancestry(session, reference)

    def evaluations(self, reference: str) -> list[values.Evaluation]:
        """Return the version's evaluations, newest first."""
        with self._stores.database.read() as session:
            return evaluations.find(session, adapter=adapter_versions.resolve(session, reference).reference)

    def set_alias(self, reference: str, alias: str, *, expected: int | None = None) -> values.AdapterVersion:
        """Make `name@alias` point at the version.

        Args:
            alias: name of the alias; ``latest`` is reserved.
            expected: number of the version that the alias must point at now, 0 for no version; None checks nothing.

        Raises:
            AliasMoved: the alias points elsewhere than expected.
            Conflict: the version is quarantined or below its retention.
        """
        with self._stores.database.write() as session:
            version = adapter_versions.resolve(session, reference)
            adapters.set_alias(session, version.name, alias, version.number, expected=expected)
            return adapter_versions.resolve(session, AdapterReference(version.name, version=version.number))

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove `name@alias`."""
        with self._stores.database.write() as session:
            adapters.delete_alias(session, name, alias)

    def tag(self, reference: str, *names: str) -> values.AdapterVersion:
        """Add tags to the version."""
        with self._stores.database.write() as session:
            return adapter_versions.add_tags(session, reference, *names)

    def untag(self, reference: str, *names: str) -> values.AdapterVersion:
        """Remove tags from the version."""
        with self._stores.database.write() as session:
            return adapter_versions.remove_tags(session, reference, *names)

    def edit_card(self, reference: str, card: str) -> values.AdapterVersion:
        """Replace the text of the version's model card. Its identity stays."""
        with self._stores.database.write() as session:
            return adapter_versions.edit_card(session, reference, card)

    def delete(self, reference: str) -> values.AdapterVersion:
        """Delete one version, given as `name/3`. Its number and its place in the lineage of others stay.

        Raises:
            InvalidReference: the reference has no version number.
            Conflict: an alias points at the version.
        """
        parsed = AdapterReference.parse(reference)
        if parsed.version is None:
            what = f"cannot delete {reference!r}: it may name another version later"
            raise errors.InvalidReference(what, fix="give a version number, such as name/3")
        with self._stores.database.write() as session:
            return adapter_versions.delete(session, parsed.name, parsed.version)

    def import_(self, source: str | Path, *, name: str, base: str) -> values.AdapterVersion:
        """Import an adapter as a new version after checking its files.

        Args:
            source: a PEFT folder, one safetensors file, or an archive of either. No code in it runs, and no link in it
                is followed.
            name: name of the adapter in this hub.
            base: name of a registered base, whose modules the adapter must fit.

        Raises:
            RefusedArtifact: with everything that is wrong with the files.
            Incompatible: the adapter does not fit the base.
            NotFound: there is no such file or base.
        """
        from finch_hub.artifacts import gate
        from finch_hub.storage import publishing

        check_name(name)
        registered = Bases(self._stores).get(base)
        with tempfile.TemporaryDirectory(dir=self._stores.settings.home, prefix="import-") as scratch:
            admitted = gate.admit_adapter(settings.expand_home(source), Path(scratch) / "adapter")
            if registered.path and Path(registered.path).is_dir():
                shapes = weight_shapes.read_linear_modules(Path(registered.path))
                gate.check_shapes(admitted.modules, shapes, name=registered.name)
            description = publishing.Description(name=name, kind="import", base=registered)
            register = publishing.publish(admitted.folder, self._stores, description, environment={})
        with self._stores.database.write() as session:
            return register(session, registered)
