"""Imports of adapters: through the gate, held against their base, and linked to what the hub has already."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.formats.atomic_writes import scratch_folder
from finch_hub.formats.finch_record import RECORD
from finch_hub.hub.bases import Bases
from finch_hub.registry import adapter_names, adapter_versions, bases, values
from finch_hub.registry.storable import make_storable
from finch_hub.specs.evidence import Evidence
from finch_hub.storage.changes import Change

if TYPE_CHECKING:
    from finch_hub.artifacts.gate import AdmittedAdapter
    from finch_hub.formats.base_layout import BaseLayout
    from finch_hub.registry.database import Session
    from finch_hub.specs.value import JsonObject
    from finch_hub.storage.stores import Stores


def import_files(
    source: Path,
    change: Change,
    stores: Stores,
    *,
    name: str,
    base: str,
    environment: JsonObject,
    state: values.VersionState | None = None,
    declared: Collection[str] = (),
    look_again: Callable[[Session], None] | None = None,
) -> values.AdapterVersion:
    """Import an adapter from a path of this machine as a part of a change; see `Adapters.import_`.

    Args:
        environment: where the files came from, for the lineage.
        state: that of the version where the files came from, None if it is unknown.
        declared: identities, one of which the files must have; empty for any.
        look_again: what the transaction calls before it makes the version, which may raise an error.

    Raises:
        RefusedArtifact: the gate refuses the files, or they have another identity.
    """
    from finch_hub.artifacts import gate
    from finch_hub.storage import publishing

    with stores.database.read() as session:
        adapter_names.check_free(session, name)
    registered = Bases(stores).get(base)
    layout = read_layout(registered, stores)
    with scratch_folder(stores.settings.home / "import") as scratch:
        admitted = gate.admit_adapter(source, scratch / "adapter", base=layout)
        known = _find_known(admitted, registered, stores)
        if declared and {admitted.before, admitted.identity, (known or admitted).identity}.isdisjoint(declared):
            what = f"names the identity {' and '.join(declared)}, but the files have {admitted.identity}"
            fix = f"the files were changed; to take them, download them, delete {RECORD}, and import them"
            raise errors.RefusedArtifact(what, where=RECORD, fix=fix)
        folder = stores.artifacts.fetch_tree(known.digest) if known is not None else admitted.folder
        if known is not None and known.state != "unchecked":
            state = state if state is not None and _is_state_from(known, environment) else known.state
        elif layout is None:
            state = "unchecked"
        description = publishing.Description(
            name=name,
            kind="import",
            base=registered,
            state=state or "ready",
            evidence=Evidence(kind="import", notes=_note_import(admitted, known)),
            owner=stores.settings.owner_name,
            lineage=_lineage_of(known),
            spec={
                **(known.prompting if known else {}),
                "import": stores.redactor.clean_values(_describe_import(admitted)),
            },
        )
        register = publishing.publish(folder, stores, description, environment=environment)
    with change.write() as session:
        adapter_names.check_free(session, name)
        if look_again is not None:
            look_again(session)
        version = register(session, bases.hold(session, registered))
        change.on = version.reference
        return version


def check_version(version: values.AdapterVersion, change: Change, stores: Stores) -> values.AdapterVersion:
    """Hold an unchecked version against its base, as a part of a change; see `Adapters.check`."""
    from finch_hub.artifacts import gate

    layout = read_layout(version.base, stores)
    if layout is None:
        raise errors.Unavailable(
            f"could not check adapter {version.reference}: the files of base {version.base.name} are not on this"
            " machine (run `finch-hub bases add` with them first)"
        )
    with scratch_folder(stores.settings.home / "import") as scratch:
        folder = stores.artifacts.fetch_tree(version.digest)
        admitted = gate.admit_adapter(folder, scratch / "adapter", base=layout)
    if admitted.identity != version.identity:
        what = f"fits base {version.base.name} only under other names: {'; '.join(admitted.notes)}"
        fix = "import its files again, now that the base is here"
        raise errors.Incompatible(what, where=version.reference, fix=fix)
    with change.write() as session:
        state: values.VersionState = "quarantined" if admitted.quarantine else version.state_elsewhere or "ready"
        checked = adapter_versions.end_check(session, version.reference, state)
        change.on, change.details["state"] = checked.reference, checked.state
        return checked


def read_layout(base: values.Base, stores: Stores) -> BaseLayout | None:
    """Return the modules of a base, None if its files are not on this machine."""
    if base.path is None or not (Path(base.path) / "config.json").is_file():
        return None
    from finch_hub.engine.bases import module_layout

    return module_layout.read_layout(Path(base.path), name=base.name, cache=stores.bases)


def _find_known(admitted: AdmittedAdapter, base: values.Base, stores: Stores) -> values.AdapterVersion | None:
    """Return the version that an import is, by its bytes or by what its record names and its updates confirm."""
    from finch_hub.formats.adapter_folder import StoredAdapter, have_equal_updates

    with stores.database.read() as session:
        known = adapter_versions.find_by_identity(session, admitted.identity, base.id)
        if known is not None or not admitted.origin:
            return known
        exported = adapter_versions.find_by_identity(session, admitted.origin, base.id)
    if exported is None:
        return None
    folder = stores.artifacts.fetch_tree(exported.digest)
    with StoredAdapter(folder) as original, StoredAdapter(admitted.folder) as copy:
        return exported if have_equal_updates(original, copy) else None


def _is_state_from(known: values.AdapterVersion, environment: JsonObject) -> bool:
    """Tell whether a version has its state from the repository of an import, and not from its use in this hub."""
    earlier, now = known.lineage.environment.get("pulled"), environment.get("pulled")
    if not isinstance(earlier, dict) or now is None or earlier.get("repository") != now["repository"]:
        return False
    return known.state == (known.state_elsewhere or "ready")


def _lineage_of(known: values.AdapterVersion | None) -> values.Lineage:
    if known is None:
        return values.Lineage()
    return known.lineage.evolve(parents=(values.ParentVersion(reference=known.reference),))


def _note_import(admitted: AdmittedAdapter, known: values.AdapterVersion | None) -> tuple[str, ...]:
    """Return what is known of an import in place of measurements."""
    notes = [f"changed: {note}" for note in admitted.notes]
    notes += [f"ignored field of its config: {make_storable(name)}" for name in admitted.ignored_fields]
    if admitted.ignored_files:
        notes.append(f"ignored files beside it: {len(admitted.ignored_files)}")
    if known is not None:
        notes.append(f"the same adapter as {known.reference}, which has its evidence")
    return tuple(notes) or ("nothing was measured at its import",)


def _describe_import(admitted: AdmittedAdapter) -> JsonObject:
    """Return what was left out and changed, for people."""
    return {
        "ignored_fields": {
            make_storable(name): make_storable(value) for name, value in admitted.ignored_fields.items()
        },
        "ignored_files": [make_storable(name) for name in admitted.ignored_files],
        "notes": list(admitted.notes),
    }
