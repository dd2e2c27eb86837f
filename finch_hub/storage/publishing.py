"""Publishing: an adapter folder passes the gate, gets card and `finch.json`, and becomes a version."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from finch_hub import errors
from finch_hub.artifacts import gate
from finch_hub.artifacts.cards.model_card import draw_pictures, write_card, write_searched_text
from finch_hub.artifacts.config_cleaning import canonical_json
from finch_hub.artifacts.inventory import has_tree
from finch_hub.formats.atomic_writes import scratch_folder
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.card_files import write_card_files
from finch_hub.formats.finch_record import RECORD
from finch_hub.formats.installed_metadata import find_version
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.plugins.catalog import Catalog
from finch_hub.registry import adapter_versions, artifact_lock, audit, bases, values
from finch_hub.registry.database import Session
from finch_hub.specs.bases import BaseDescription
from finch_hub.specs.cards import CardFacts
from finch_hub.specs.evidence import Evidence
from finch_hub.specs.value import JsonObject
from finch_hub.storage import cards
from finch_hub.storage.base_registration import find_earlier_fingerprint
from finch_hub.storage.stores import Stores

_LIBRARIES = ("finch-hub", "torch", "transformers", "peft", "safetensors", "tokenizers", "numpy")

_BASE_FIELDS = {"source", "revision", "public_id", "fingerprint", "architecture"}


@dataclass(frozen=True, kw_only=True)
class Description:
    """An adapter that is to become a version. The gate may change its state to quarantined, unless it is unchecked.

    Attributes:
        evidence: what was measured when the adapter was made.
        samples: its sample answers. They quote rows, so they are in none of its files.
    """

    name: str
    kind: values.VersionKind
    base: BaseDescription
    lineage: values.Lineage = values.Lineage()  # noqa: RUF009 - frozen
    spec: JsonObject = field(default_factory=dict)
    metrics: JsonObject = field(default_factory=dict)
    state: values.VersionState = "ready"
    job_id: str | None = None
    evidence: Evidence | None = None
    samples: bytes | None = None
    owner: str = ""


CreateVersion = Callable[[Session, values.Base], values.AdapterVersion]
"""Creates the version of a published adapter."""


PRIVATE = frozenset({"reading", "import"})
"""Fields of a specification that stay in this hub."""


@dataclass(frozen=True, kw_only=True)
class WrittenAdapter:
    """An adapter that passed the gate, in a folder with its card and `finch.json`, ready to be stored.

    Attributes:
        metrics: those of the description, with what the gate found.
        card: text of the card for searches.
    """

    folder: Path
    identity: str
    state: values.VersionState
    metrics: JsonObject
    card: str
    evidence: JsonObject | None


def publish(folder: Path, stores: Stores, description: Description, environment: JsonObject) -> CreateVersion:
    """Put an adapter folder through the gate and into the store, with its card and `finch.json`.

    Args:
        environment: influences on the bytes, for the lineage.

    Raises:
        RefusedArtifact: the gate found a problem.
        Unavailable: the store is full or does not answer.
    """
    environment = stores.redactor.clean_values(environment)  # which plugins add to
    versions = list_library_versions(stores.catalog, environment)
    lineage = description.lineage.evolve(versions=versions, environment=environment)
    with scratch_folder(stores.settings.home / "publish") as scratch:
        written = write_adapter(folder, scratch / "adapter", stores, replace(description, lineage=lineage))
        digest = stores.artifacts.put_tree(written.folder)
    samples = None if description.samples is None else stores.artifacts.put(description.samples)

    def create_version(session: Session, base: values.Base) -> values.AdapterVersion:
        artifact_lock.share(session)
        require_tree(digest, stores, description.name)
        if description.samples is not None:
            stores.artifacts.put(description.samples)  # a collection may have removed them meanwhile
        made = adapter_versions.create(
            session,
            name=description.name,
            digest=digest,
            identity=written.identity,
            base=base,
            kind=description.kind,
            lineage=lineage,
            state=written.state,
            job_id=description.job_id,
            spec=description.spec,
            metrics=written.metrics,
            card=written.card,
            evidence=written.evidence,
            samples=samples,
            owner=description.owner,
        )
        if made.job_id is not None:  # otherwise a user makes it, whose change has an entry
            details = {"kind": made.kind, "state": made.state}
            audit.add_of_job(session, made.job_id, action="version.create", on=made.reference, details=details)
        return made

    return create_version


def write_adapter(
    source: Path, into: Path, stores: Stores, description: Description, *, layout: BaseLayout | None = None
) -> WrittenAdapter:
    """Put an adapter folder through the gate, and write it to a new folder with its card and `finch.json`.

    Args:
        layout: modules of the base, against which the adapter is held; None holds it against none.

    Raises:
        RefusedArtifact: the gate found a problem.
        Incompatible: the adapter does not fit the base.
    """
    described = _find_registered(description.base, stores)
    admitted = gate.admit_adapter(source, into, base=layout)
    _name_base(into / CONFIG, described)
    # Plugins add to metrics and evidence, and a prompt is a user's.
    clean, clean_text = stores.redactor.clean_values, stores.redactor.clean
    metrics = clean(description.metrics)
    evidence = None if description.evidence is None else clean(description.evidence.to_document())
    metrics |= {"rank": admitted.rank, "bytes": sum((into / name).stat().st_size for name in (CONFIG, WEIGHTS))}
    state = description.state
    if admitted.quarantine:
        metrics["quarantine"] = list(admitted.quarantine)
        state = "quarantined" if state != "unchecked" else state
    record: JsonObject = {
        "format": 1,
        "name": description.name,
        "kind": description.kind,
        "identity": admitted.identity,
        "job": description.job_id,
        "base": {**described.model_dump(include=_BASE_FIELDS), "source": described.label},
        "spec": clean(make_public(description.spec, described)),
        "lineage": description.lineage.model_dump(mode="json"),
        "metrics": metrics,
    }
    facts = CardFacts(
        name=description.name,
        kind=description.kind,
        base=cards.describe_base(described),
        spec=record["spec"],
        files=cards.describe_files(into),
        metrics=metrics,
        **cards.describe_lineage(description.lineage),
        data_license=_find_data_license(description, stores),
        evidence=_read_evidence(evidence),
        state=state,
    )
    # Later, cards are written anew. This one is for who reads the stored files without the hub.
    write_card_files(into, clean_text(write_card(facts)), draw_pictures(facts))
    (into / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return WrittenAdapter(
        folder=into,
        identity=admitted.identity,
        state=state,
        metrics=metrics,
        card=clean_text(write_searched_text(facts)),
        evidence=evidence,
    )


def _read_evidence(document: JsonObject | None) -> Evidence | None:
    """Return evidence from which secrets were taken, None if it cannot be read then."""
    try:
        return None if document is None else Evidence.of_stored(document)
    except errors.InvalidSpec:
        return None


def _find_data_license(description: Description, stores: Stores) -> str | None:
    with stores.database.read() as session:
        return cards.find_data_license(session, description.lineage, description.spec)


def require_tree(digest: str, stores: Stores, adapter: str) -> None:
    """Refuse to register a version whose files were removed from the store.

    Raises:
        Unavailable: they were.
    """
    if not has_tree(stores.artifacts, digest):
        what = f"could not register adapter {adapter}: its files were removed from the store meanwhile"
        raise errors.Unavailable(f"{what} (try again)")


def _find_registered(base: BaseDescription, stores: Stores) -> BaseDescription:
    """Return a base with the name and the id that users gave it; jobs know its files only."""
    with contextlib.suppress(errors.NotFound), stores.database.read() as session:
        return bases.get(session, base.fingerprint)
    earlier = find_earlier_fingerprint(base, stores)
    if earlier is None:
        return base
    with stores.database.read() as session:
        return bases.get(session, earlier)


def make_public(spec: JsonObject, base: BaseDescription) -> JsonObject:
    """Return a specification for a file that never changes and that others read.

    It names its base as others know it. It does not tell how the rows were read, since such texts can quote them, nor
    what lay beside an imported file.
    """
    public = {name: value for name, value in spec.items() if name not in PRIVATE}
    if isinstance(public.get("base"), dict):
        public["base"] = {**public["base"], "source": base.label}
    return public


def _name_base(config: Path, base: BaseDescription) -> None:
    """Let a config name its base as others know it. The identity of an adapter does not depend on it."""
    fields = {**json.loads(config.read_bytes()), "base_model_name_or_path": base.label}
    config.write_bytes(canonical_json(fields))


def list_library_versions(catalog: Catalog, environment: JsonObject) -> dict[str, str]:
    """Return the versions of libraries and plugins that an adapter's bytes may depend on, as `environment` has them.

    The rest is read from this process's installation.
    """
    versions = {plugin.name: plugin.version for plugin in catalog.plugins if plugin.version and plugin.is_loaded}
    for name in _LIBRARIES:
        if version := environment.get(name) or find_version(name):
            versions[name] = str(version)
    return versions
