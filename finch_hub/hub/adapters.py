"""Adapters: their versions, aliases, tags, lineage and files, and imports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors, settings
from finch_hub.formats.atomic_writes import scratch_folder
from finch_hub.hub.bases import Bases
from finch_hub.registry import adapter_names, adapter_versions, adapters, evaluations, lineage, values
from finch_hub.registry.storable import make_storable
from finch_hub.specs.addresses import ADDRESS, strip_credentials
from finch_hub.specs.references import AdapterReference

if TYPE_CHECKING:
    from finch_hub.artifacts.gate import AdmittedAdapter
    from finch_hub.formats.base_layout import BaseLayout
    from finch_hub.specs.inspections import InspectionReport
    from finch_hub.specs.value import JsonObject
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

    def verify(self, reference: str) -> InspectionReport:
        """Hold every stored byte of the version against its hash, and its files against its identity.

        Raises:
            NotFound: there is no such version.
            Unavailable: the store does not answer.
        """
        from finch_hub.storage.inspection import inspect_version

        return inspect_version(self.get(reference), self._stores)

    def lineage(self, reference: str, direction: values.Direction = "ancestors") -> values.LineageGraph:
        """Return the version with its ancestors, its descendants or both, including deleted ones."""
        with self._stores.database.read() as session:
            return lineage.read_graph(session, reference, direction)

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
        """Add tags to the version, as `name` or `name=value`. A tag that it has takes the new value."""
        with self._stores.database.write() as session:
            return adapter_versions.add_tags(session, reference, *names)

    def untag(self, reference: str, *names: str) -> values.AdapterVersion:
        """Remove tags from the version, as `name`, or as `name=value` if they have that value."""
        with self._stores.database.write() as session:
            return adapter_versions.remove_tags(session, reference, *names)

    def rename(self, name: str, new: str) -> None:
        """Rename an adapter. References with its former name go on naming it.

        Raises:
            NotFound: there is no such adapter.
            InvalidReference: the new name is not well formed.
            Conflict: another adapter has or had the new name, or a base has it.
        """
        with self._stores.database.write() as session:
            adapter_names.rename(session, name, new)

    def describe(self, name: str, text: str) -> None:
        """Replace the description of an adapter, which says what it is for.

        Raises:
            NotFound: there is no such adapter.
        """
        with self._stores.database.write() as session:
            adapter_names.describe(session, name, text)

    def note(self, reference: str, text: str) -> values.AdapterVersion:
        """Replace the notes of the version."""
        with self._stores.database.write() as session:
            return adapter_versions.edit_notes(session, reference, text)

    def edit_card(self, reference: str, card: str) -> values.AdapterVersion:
        """Replace the text of the version's model card. Its identity stays."""
        with self._stores.database.write() as session:
            return adapter_versions.edit_card(session, reference, card)

    def delete(self, reference: str) -> values.AdapterVersion:
        """Delete one version, given as `name/3`. Its number and its place in the lineage of others stay.

        Raises:
            InvalidReference: the reference has no version number.
            Conflict: an alias points at the version, or an unfinished job reads it.
        """
        parsed = AdapterReference.parse(reference)
        if parsed.version is None:
            what = f"cannot delete {reference!r}: it may name another version later"
            raise errors.InvalidReference(what, fix="give a version number, such as name/3")
        with self._stores.use_reserve(), self._stores.database.write() as session:
            return adapters.delete_version(session, parsed.name, parsed.version)

    def get_usable(self, reference: str) -> values.AdapterVersion:
        """Return the version that the reference names, to be used.

        Raises:
            NotFound: there is no such adapter, version or alias; offers similar names.
            Conflict: the version is unchecked.
        """
        with self._stores.database.read() as session:
            return adapter_versions.resolve_usable(session, reference)

    def limits(self, reference: str) -> dict[str, tuple[str, ...]]:
        """Return the operations that cannot use the version, by the part of the adapter that they do not support."""
        from finch_hub.formats.adapter_folder import StoredAdapter
        from finch_hub.formats.operations import OPERATIONS, find_limits

        try:
            with StoredAdapter(self.folder(reference)) as adapter:
                return find_limits(adapter)
        except errors.Incompatible as error:  # an earlier hub stored it
            return {f"a problem with {p.where or 'its files'}: it {p.what}": OPERATIONS for p in error.problems}

    def import_(self, source: str | Path, *, name: str, base: str) -> values.AdapterVersion:
        """Import an adapter as a new version after checking its files, and holding it against its base.

        If the files of the base are not on this machine, the version is `unchecked`, until `check` is called where they
        are. Bytes that the hub has already are linked to their version.

        Args:
            source: a PEFT folder, one safetensors file, or an archive of either. No code in it runs, and no link in it
                is followed.
            name: name of the adapter in this hub.
            base: name of a registered base, whose modules the adapter must fit.

        Raises:
            InvalidInput: the source is the address of a web page.
            RefusedArtifact: with everything that is wrong with the files.
            Incompatible: the adapter does not fit the base.
            NotFound: there is no such file or base.
        """
        from finch_hub.artifacts import gate
        from finch_hub.storage import publishing

        with self._stores.database.read() as session:
            adapter_names.check_free(session, name)
        if source == "":  # as a path, it would be the working directory
            raise errors.NotFound("file or folder", "")
        if ADDRESS.match(str(source)) and not settings.expand_home(source).exists():
            what = f"{strip_credentials(str(source))} is an address, and nothing is downloaded"
            raise errors.InvalidInput(what, fix="download the adapter's folder or file, and import that")
        registered = Bases(self._stores).get(base)
        layout = self.read_layout(registered)
        with scratch_folder(self._stores.settings.home / "import") as scratch:
            admitted = gate.admit_adapter(settings.expand_home(source), scratch / "adapter", base=layout)
            known = self._find_known(admitted, registered)
            folder = self._stores.artifacts.fetch_tree(known.digest) if known is not None else admitted.folder
            state: values.VersionState = "ready" if layout is not None else "unchecked"
            if known is not None and known.state != "unchecked":
                state = known.state
            description = publishing.Description(
                name=name,
                kind="import",
                base=registered,
                state=state,
                owner=self._stores.settings.owner_name,
                lineage=_lineage_of(known),
                spec={
                    **(known.prompting if known else {}),
                    "import": self._stores.redactor.clean_values(_describe_import(admitted)),
                },
            )
            register = publishing.publish(folder, self._stores, description, environment={})
        with self._stores.database.write() as session:
            adapter_names.check_free(session, name)
            return register(session, registered)

    def check(self, reference: str) -> values.AdapterVersion:
        """Hold an unchecked version against its base, and make it ready if it fits.

        Raises:
            NotFound: there is no such version.
            Unavailable: the files of the base are not on this machine.
            Incompatible: the adapter does not fit the base, with everything that is wrong. It stays unchecked.
        """
        from finch_hub.artifacts import gate

        version = self.get(reference)
        if version.state != "unchecked":
            return version
        layout = self.read_layout(version.base)
        if layout is None:
            raise errors.Unavailable(
                f"could not check adapter {version.reference}: the files of base {version.base.name} are not on this"
                " machine (run `finch-hub bases add` with them first)"
            )
        with scratch_folder(self._stores.settings.home / "import") as scratch:
            folder = self._stores.artifacts.fetch_tree(version.digest)
            admitted = gate.admit_adapter(folder, scratch / "adapter", base=layout)
        if admitted.identity != version.identity:
            what = f"fits base {version.base.name} only under other names: {'; '.join(admitted.notes)}"
            fix = "import its files again, now that the base is here"
            raise errors.Incompatible(what, where=version.reference, fix=fix)
        with self._stores.database.write() as session:
            state: values.VersionState = "quarantined" if admitted.quarantine else version.state_elsewhere or "ready"
            return adapter_versions.end_check(session, version.reference, state)

    def read_layout(self, base: values.Base) -> BaseLayout | None:
        """Return the modules of a base, None if its files are not on this machine."""
        if base.path is None or not (Path(base.path) / "config.json").is_file():
            return None
        from finch_hub.engine.bases.module_layout import read_layout

        return read_layout(Path(base.path), name=base.name, cache=self._stores.bases)

    def _find_known(self, admitted: AdmittedAdapter, base: values.Base) -> values.AdapterVersion | None:
        """Return the version that an import is, by its bytes or by what its record names and its updates confirm."""
        from finch_hub.formats.adapter_folder import StoredAdapter, have_equal_updates

        with self._stores.database.read() as session:
            known = adapter_versions.find_by_identity(session, admitted.identity, base.id)
            if known is not None or not admitted.origin:
                return known
            exported = adapter_versions.find_by_identity(session, admitted.origin, base.id)
        if exported is None:
            return None
        folder = self._stores.artifacts.fetch_tree(exported.digest)
        with StoredAdapter(folder) as original, StoredAdapter(admitted.folder) as copy:
            return exported if have_equal_updates(original, copy) else None


def _lineage_of(known: values.AdapterVersion | None) -> values.Lineage:
    if known is None:
        return values.Lineage()
    return known.lineage.evolve(parents=(values.ParentVersion(reference=known.reference),))


def _describe_import(admitted: AdmittedAdapter) -> JsonObject:
    """Return what was left out and changed, for people."""
    return {
        "ignored_fields": {
            make_storable(name): make_storable(value) for name, value in admitted.ignored_fields.items()
        },
        "ignored_files": [make_storable(name) for name in admitted.ignored_files],
        "notes": list(admitted.notes),
    }
