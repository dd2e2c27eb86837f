"""Model cards of versions: written from what is known now, or as a user edited them, with metadata that are ours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.artifacts.cards import metadata, model_card
from finch_hub.formats.card_files import CARD, PICTURES, write_card_files
from finch_hub.formats.folder_removal import remove_folder
from finch_hub.registry import adapter_names, datasets, evidence
from finch_hub.specs.bundles import Origin
from finch_hub.specs.cards import Card, CardBase, CardFacts, CardFiles, CardParent, check_card, name_revision
from finch_hub.texts.visible_text import to_block

if TYPE_CHECKING:
    from finch_hub.registry.database import Session
    from finch_hub.registry.values import AdapterVersion, Lineage
    from finch_hub.specs.bases import BaseDescription
    from finch_hub.specs.value import JsonObject
    from finch_hub.storage.stores import Stores


def read_card(
    version: AdapterVersion,
    stores: Stores,
    *,
    base: str | None = None,
    repository: tuple[str, str] | None = None,
    is_folded: bool = False,
) -> Card:
    """Return the card of a version.

    Args:
        base: name of the base in the card; None takes that by which others know it.
        repository: repository that the card is written for, with its revision.
        is_folded: whether the card is written for files in which the scales are folded.
    """
    facts = find_facts(version, stores, base=base, repository=repository)
    if is_folded and facts.files is not None:
        facts = facts.evolve(files=facts.files.evolve(is_folded=True))
    is_edited = version.card_edited_at is not None
    body = f"{to_block(version.card.rstrip())}\n" if is_edited else model_card.write_body(facts)
    return Card(
        adapter=version.reference,
        text=stores.redactor.clean("\n".join([*metadata.make_front(facts), body])),
        body=stores.redactor.clean(body),
        pictures=model_card.draw_pictures(facts),
        edited_at=version.card_edited_at,
        revision=name_revision(version.card if is_edited else None),
    )


def find_facts(
    version: AdapterVersion, stores: Stores, *, base: str | None = None, repository: tuple[str, str] | None = None
) -> CardFacts:
    """Return what a card tells of a version."""
    with stores.database.read() as session:
        known = evidence.find(session, version.reference)[0]
        description = adapter_names.find_description(session, version.name)
        data_license = find_data_license(session, version.lineage, version.spec)
    return CardFacts(
        name=version.name,
        reference=version.reference,
        kind=version.kind,
        base=describe_base(version.base, base),
        description=description,
        spec=version.spec,
        files=_read_files(version.digest, stores) if version.card_edited_at is None else None,
        metrics=version.metrics,
        **describe_lineage(version.lineage),
        data_license=data_license,
        evidence=known,
        state=version.state,
        repository=repository,
    )


def describe_base(base: BaseDescription, name: str | None = None) -> CardBase:
    """Return what a card tells of a base, under its own or under another name. The metadata have its own id always."""
    return CardBase(
        label=name or base.label,
        hub_id=base.hub_id,
        revision=base.revision if base.source == base.hub_id else None,
        architecture=base.architecture,
        license=base.license,
        license_link=base.license_link,
    )


def describe_lineage(lineage: Lineage) -> JsonObject:
    """Return the fields of `CardFacts` that a lineage has."""
    return {
        "parents": tuple(CardParent(reference=parent.reference, weight=parent.weight) for parent in lineage.parents),
        "train_digest": lineage.train_digest,
        "validation_digest": lineage.validation_digest,
    }


def find_data_license(session: Session, lineage: Lineage, spec: JsonObject) -> str | None:
    """Return the license of the training data, as it was given here or in the hub that a bundle came from."""
    if lineage.train_digest is not None:
        dataset = datasets.find_digest(session, lineage.train_digest)
        if dataset is not None and dataset.license is not None:
            return dataset.license
    if not isinstance(spec.get("bundle"), dict):
        return None
    try:
        return Origin.of_stored(spec["bundle"]).data_license
    except errors.InvalidSpec:
        return None


def lay_out(folder: Path, card: Card, adapter: Path) -> Path:
    """Make a folder of links to the files of an adapter, with a card in place of the stored one, and return it."""
    remove_folder(folder)  # of an earlier attempt
    folder.mkdir(parents=True)
    for file in sorted(adapter.iterdir()):
        if file.name not in (CARD, *PICTURES):
            (folder / file.name).symlink_to(file.resolve())
    write_card_files(folder, card.text, card.pictures)
    return folder


def check_edited(text: str, card: Card) -> str:
    """Return the body of a card that a user edited.

    Args:
        card: the card as it is now. The text may begin with its metadata.

    Raises:
        InvalidInput: the text is empty or too long, or has other metadata.
    """
    text = check_card(text)
    front, body = metadata.split_front(text)
    if front is None:
        return text
    is_own = front.strip() == (metadata.split_front(card.text)[0] or "").strip()
    if not is_own or metadata.split_front(body)[0] is not None:
        fix = "leave them out; the license of a base is set with `finch-hub bases add SOURCE --license ID`"
        raise errors.InvalidInput("the metadata between the lines --- are written from what is known", fix=fix)
    return check_card(body)


def describe_files(folder: Path) -> CardFiles | None:
    """Return what a card tells of the files of an adapter, None if this version cannot read them."""
    from finch_hub.formats.adapter_folder import StoredAdapter
    from finch_hub.formats.operations import find_limits

    scaled = ("use_rslora", "rank_pattern", "alpha_pattern")
    try:
        with StoredAdapter(folder) as adapter:
            return CardFiles(
                parts=tuple(find_limits(adapter)),
                is_folded=not any(adapter.config.get(field) for field in scaled),
                has_head=any(path.rpartition(".")[2] == "lm_head" for path in adapter.modules),
            )
    except (errors.InvalidInput, errors.NotFound):
        return None


def _read_files(tree: str, stores: Stores) -> CardFiles | None:
    """Return what a card tells of stored files, None if they are gone, damaged or out of reach."""
    try:
        return describe_files(stores.artifacts.fetch_tree(tree))
    except (errors.MissingArtifact, errors.RefusedArtifact, errors.Unavailable):
        return None
