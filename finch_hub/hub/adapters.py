"""Adapters: their versions, aliases, tags and lineage; importing one; its files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.engine.bases import target_modules
from finch_hub.registry import adapters, evaluations, values
from finch_hub.specs.references import AdapterReference, check_name

if TYPE_CHECKING:
    from finch_hub.hub.bases import Bases
    from finch_hub.storage.stores import Stores


class Adapters:
    """The adapters of the hub. References are `name` (its newest ready version), `name/3` or `name@alias`."""

    def __init__(self, stores: Stores, bases: Bases) -> None:
        self._stores, self._bases = stores, bases

    def find(
        self, *, name: str | None = None, tag: str | None = None, base: str | None = None, limit: int = 100
    ) -> list[values.AdapterSummary]:
        """Return the adapters whose name contains the text, with the tag, of the base."""
        with self._stores.database.read() as session:
            return adapters.find(session, name=name, tag=tag, base=base, limit=limit)

    def get(self, reference: str) -> values.AdapterVersion:
        """Return the version that is meant.

        Raises:
            NotFound: there is no such adapter, version or alias; offers the near names.

        """
        with self._stores.database.read() as session:
            return adapters.resolve(session, reference)

    def versions(self, name: str) -> list[values.AdapterVersion]:
        """Return the versions of an adapter, newest first."""
        with self._stores.database.read() as session:
            return adapters.versions(session, name)

    def folder(self, reference: str) -> Path:
        """Return a local folder with the version's files in PEFT's format; read-only, and shared with other callers."""
        return self._stores.artifacts.fetch_tree(self.get(reference).digest)

    def lineage(self, reference: str) -> values.Ancestry:
        """Return the version with all that it descends from."""
        with self._stores.database.read() as session:
            return adapters.lineage(session, reference)

    def evaluations(self, reference: str) -> list[values.Evaluation]:
        """Return what was measured of the version, newest first."""
        with self._stores.database.read() as session:
            return evaluations.find(session, adapter=adapters.resolve(session, reference).reference)

    def set_alias(self, reference: str, alias: str, *, expected: int | None = None) -> values.AdapterVersion:
        """Let `name@alias` point at the version.

        Args:
            reference: of the version.
            alias: its new name; ``latest`` is reserved.
            expected: the version that the alias must point at until now, 0 for none; None moves it from anywhere.

        Raises:
            AliasMoved: it points elsewhere than expected.
            Conflict: the version is quarantined or below its retention.

        """
        with self._stores.database.write() as session:
            version = adapters.resolve(session, reference)
            adapters.set_alias(session, version.name, alias, version.number, expected=expected)
            return adapters.resolve(session, AdapterReference(version.name, version=version.number))

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove `name@alias`."""
        with self._stores.database.write() as session:
            adapters.delete_alias(session, name, alias)

    def tag(self, reference: str, *names: str) -> values.AdapterVersion:
        """Add tags to the version."""
        with self._stores.database.write() as session:
            return adapters.tag(session, reference, *names)

    def untag(self, reference: str, *names: str) -> values.AdapterVersion:
        """Remove tags from the version."""
        with self._stores.database.write() as session:
            return adapters.untag(session, reference, *names)

    def edit_card(self, reference: str, card: str) -> values.AdapterVersion:
        """Replace the text of the version's model card; its identity stays."""
        with self._stores.database.write() as session:
            return adapters.edit_card(session, reference, card)

    def delete(self, reference: str) -> values.AdapterVersion:
        """Take one version, given as `name/3`, out of use; its number and its place in the lineage of others stay.

        Raises:
            InvalidReference: the reference names no one version.
            Conflict: an alias points at it.

        """
        parsed = AdapterReference.parse(reference)
        if parsed.version is None:
            raise errors.InvalidReference(
                errors.Problem(what=f"{reference!r} may mean another version tomorrow", fix="write name/3")
            )
        with self._stores.database.write() as session:
            return adapters.delete_version(session, parsed.name, parsed.version)

    def import_(self, source: str | Path, *, name: str, base: str) -> values.AdapterVersion:
        """Let an adapter from outside in, through the gate, as a new version.

        Args:
            source: a PEFT folder, one safetensors file, or an archive of either; never executed, never followed.
            name: of the adapter here.
            base: a registered base; the adapter must fit its modules.

        Raises:
            RefusedArtifact: with everything that the gate found.
            Incompatible: the adapter does not fit the base.
            NotFound: there is no such file or base.

        """
        from finch_hub.artifacts import gate
        from finch_hub.storage import publishing

        check_name(name)
        known = self._bases.get(base)
        with tempfile.TemporaryDirectory(dir=self._stores.settings.home, prefix="import-") as scratch:
            admitted = gate.admit_adapter(Path(source).expanduser(), Path(scratch) / "adapter")
            if known.path and Path(known.path).is_dir():
                gate.check_shapes(admitted.modules, target_modules.linear_modules(Path(known.path)), name=known.name)
            description = publishing.Description(
                name=name,
                kind="import",
                base=known.model_dump(mode="json"),
                lineage=values.Lineage(versions=publishing.versions(self._stores.catalog, {})),
            )
            published = publishing.publish(admitted.folder, self._stores, description)
        with self._stores.database.write() as session:
            return publishing.register(session, published, known)
