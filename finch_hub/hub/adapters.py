"""Adapters: their versions, aliases, tags, lineage and files, and imports."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors, progress, settings
from finch_hub.hub import importing
from finch_hub.hub.versions import Version
from finch_hub.registry import (
    adapter_deletion,
    adapter_names,
    adapter_needs,
    adapter_versions,
    adapters,
    alias_moves,
    audit,
    datasets,
    evaluations,
    evidence,
    lineage,
    metric_history,
    values,
    version_search,
)
from finch_hub.specs.addresses import ADDRESS, strip_credentials
from finch_hub.specs.cards import Card
from finch_hub.specs.comparisons import Comparison, MetricPoint
from finch_hub.specs.evidence import Evidence, Samples
from finch_hub.specs.references import AdapterReference
from finch_hub.storage import cards
from finch_hub.storage.changes import Change, changing

if TYPE_CHECKING:
    from finch_hub.specs.inspections import InspectionReport
    from finch_hub.storage.adapter_purging import PurgedAdapter
    from finch_hub.storage.stores import Stores


class Adapters:
    """The adapters of the hub. A reference is `name` (the newest ready version), `name/3` or `name@alias`.

    `adapters["legal@best"]` looks a version up, `"legal" in adapters` tells whether there is one, and a loop over the
    adapters yields their names, page by page.
    """

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def __getitem__(self, reference: str) -> Version:
        """Return the version that the reference names.

        Raises:
            NotFound: there is no such adapter, version or alias; offers similar names.
        """
        return Version(self.get(reference), self._stores)

    def __contains__(self, reference: object) -> bool:
        try:
            return isinstance(reference, str) and self.get(reference) is not None
        except (errors.NotFound, errors.InvalidReference):
            return False
        except errors.Conflict:  # its versions are unchecked or quarantined
            return True

    def __iter__(self) -> Iterator[str]:
        page = self.overview()
        while True:
            yield from (adapter.name for adapter in page.adapters)
            if page.next is None:
                return
            page = self.overview(after=page.next)

    def iterate(self, query: str = "", *, sort: str = "-created") -> Iterator[Version]:
        """Yield all versions that meet a query, page by page, with the errors of `find`."""
        page = self.find(query, sort=sort)
        while True:
            yield from (Version(version, self._stores) for version in page.versions)
            if page.next is None:
                return
            page = self.find(query, sort=sort, after=page.next)

    def find(
        self, query: str = "", *, sort: str = "-created", limit: int = 50, after: str | None = None
    ) -> values.VersionPage:
        """Return a page of the versions that meet a query.

        Args:
            query: words and filters, all of which a version must meet: ``contract base:llama metric.loss_after<2.1``.
            sort: ``created``, ``updated``, ``name``, or a number such as ``metric.loss_after``, with a leading ``-``
                for the largest first. Versions without the number are left out.
            limit: largest number of versions of the page, 1 to 1,000.
            after: `next` of the page before, of the same query and order.

        Raises:
            InvalidSpec: the query, the order, the limit or the cursor is invalid; says where, and what is known.
            NotFound: a base, data set, parent or number that the query or the order names does not exist; offers
                similar names.
        """
        with self._stores.database.read() as session:
            return version_search.find(session, query, sort=sort, limit=limit, after=after)

    def overview(self, *, limit: int = 100, after: str | None = None) -> values.AdapterPage:
        """Return a page of the adapters by name, each with its newest version.

        Args:
            limit: largest number of adapters of the page, 1 to 1,000.
            after: `next` of the page before.
        """
        with self._stores.database.read() as session:
            return adapters.find(session, limit=limit, after=after)

    def get(self, reference: str) -> values.AdapterVersion:
        """Return the version that the reference names.

        Raises:
            NotFound: there is no such adapter, version or alias; offers similar names.
        """
        with self._stores.database.read() as session:
            return adapter_versions.resolve(session, reference)

    def versions(self, name: str, *, limit: int = 100, after: str | None = None) -> values.VersionPage:
        """Return a page of the versions of an adapter, newest first.

        Args:
            limit: largest number of versions of the page, 1 to 1,000.
            after: `next` of the page before.
        """
        with self._stores.database.read() as session:
            return adapter_versions.find(session, name, limit=limit, after=after)

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

    def alias_history(
        self, reference: str, *, limit: int = 100, after: int | None = None
    ) -> list[alias_moves.AliasChange]:
        """Return what an alias, `name@alias`, or each alias of an adapter, `name`, pointed at, newest first.

        Args:
            after: number of the last change on the previous page.

        Raises:
            NotFound: there is no such adapter or alias, and never was.
        """
        with self._stores.database.read() as session:
            return alias_moves.find(session, reference, limit=limit, after=after)

    def evidence(self, reference: str) -> Evidence:
        """Return what was measured when the version was made. It stays when the job is pruned.

        Raises:
            NotFound: there is no such version.
        """
        with self._stores.database.read() as session:
            return evidence.find(session, reference)[0]

    def samples(self, reference: str) -> Samples:
        """Return prompts of the version's validation data, with the answers before and after its training.

        Before it, the base answers, or the version that the training went on from.

        Raises:
            NotFound: there is no such version.
            Conflict: it has no sample answers, or they were purged.
        """
        from finch_hub.storage.samples import read_samples_of

        with self._stores.database.read() as session:
            return read_samples_of(session, reference, self._stores)

    def write_report(self, reference: str, html: str | Path, *, samples: bool = False, replace: bool = False) -> Path:
        """Write a report of the version as one HTML file, which needs no network and no script, and return its path.

        It has the curve, the data, retention, conflicts, drift, lineage, settings, and the command that repeats them.

        Args:
            html: path of the new file.
            samples: whether to show sample answers. They quote rows of the data.
            replace: whether to replace an earlier report at `html`.

        Raises:
            NotFound: there is no such version.
            Conflict: the path exists and may not be replaced, or there are no sample answers.
            InvalidInput: the extra `report` is not installed.
            Unavailable: the path cannot be written.
        """
        from finch_hub.hub import reporting

        return reporting.report_version(self.get(reference), html, self._stores, samples=samples, replace=replace)

    def compare(self, *references: str, show_equal: bool = False, modules: bool = False) -> Comparison:
        """Compare versions of any adapters and bases, or all versions of one adapter, given by its name alone.

        Args:
            show_equal: whether to return what is equal, too.
            modules: whether to read the adapters' files, for the norm and overlap of their updates by module.

        Raises:
            NotFound: there is no such version.
            InvalidSpec: there are fewer than two versions, or more than 50.
        """
        from finch_hub.hub import comparing

        return comparing.compare(references, self._stores, show_equal=show_equal, modules=modules)

    def metric(self, name: str, metric: str) -> list[MetricPoint]:
        """Return a metric of each version of the adapter, oldest first.

        Raises:
            NotFound: there is no such adapter, or none of its versions has the metric.
        """
        with self._stores.database.read() as session:
            return metric_history.find(session, name, metric)

    def set_alias(
        self, reference: str, alias: str, *, expected: int | None = None, why: str | None = None
    ) -> values.AdapterVersion:
        """Make `name@alias` point at the version.

        Args:
            alias: name of the alias; ``latest`` is reserved.
            expected: number of the version that the alias must point at now, 0 for no version; None checks nothing.
            why: reason of the move, for the history of the alias.

        Raises:
            AliasMoved: the alias points elsewhere than expected.
            Conflict: the version is quarantined or below its retention.
        """
        on = f"{audit.name_of(reference)}@{alias}"
        why = None if why is None else self._clean(why, "the reason")
        details = {"to": reference, "expected": expected, "why": why}
        with changing(self._stores, "alias.move", on, **details) as change, change.write() as session:
            version = adapter_versions.resolve(session, reference)
            change.on = f"{version.name}@{alias}"
            before = adapters.set_alias(
                session, version.name, alias, version.number, expected=expected, who=change.who, why=why
            )
            change.details |= {"from": before, "to": version.number}
            return adapter_versions.resolve(session, AdapterReference(version.name, version=version.number))

    def delete_alias(self, name: str, alias: str, *, expected: int | None = None, why: str | None = None) -> None:
        """Remove `name@alias`.

        Args:
            expected: number of the version that the alias must point at now; None checks nothing.
            why: reason of the removal, for the history of the alias.

        Raises:
            NotFound: there is no such alias.
            AliasMoved: the alias points elsewhere than expected.
            Conflict: an unfinished job names it.
        """
        why = None if why is None else self._clean(why, "the reason")
        on, details = f"{name}@{alias}", {"expected": expected, "why": why}
        with changing(self._stores, "alias.remove", on, **details) as change, change.write() as session:
            change.details["from"] = adapters.delete_alias(
                session, name, alias, expected=expected, who=change.who, why=why
            )

    def tag(self, reference: str, *names: str) -> values.AdapterVersion:
        """Add tags to the version, as `name` or `name=value`. A tag that it has takes the new value."""
        names = tuple(map(self._clean_tag, names))
        with changing(self._stores, "version.tag", reference, tags=names) as change, change.write() as session:
            return _named(change, adapter_versions.add_tags(session, reference, *names))

    def untag(self, reference: str, *names: str) -> values.AdapterVersion:
        """Remove tags from the version, as `name`, or as `name=value` if they have that value."""
        names = tuple(map(self._stores.redactor.clean, names))  # as they are stored
        with changing(self._stores, "version.untag", reference, tags=names) as change:
            with self._stores.database.read() as session:
                version = adapter_versions.resolve(session, reference)
            had = {text for tag in version.tags for text in (tag, f"{tag}=", tag.partition("=")[0])}
            if had.isdisjoint(names):
                return version  # without an entry, since nothing changes
            with change.write() as session:
                return _named(change, adapter_versions.remove_tags(session, reference, *names))

    def rename(self, name: str, new: str) -> None:
        """Rename an adapter. References with its former name go on naming it.

        Raises:
            NotFound: there is no such adapter.
            InvalidReference: the new name is not well formed.
            Conflict: another adapter has or had the new name, or a base has it.
        """
        with changing(self._stores, "adapter.rename", name, to=new) as change, change.write() as session:
            if adapter_names.find_id(session, new) is None:
                adapter_needs.refuse_coming(session, new)
            adapter_names.rename(session, name, new)

    def describe(self, name: str, text: str) -> None:
        """Replace the description of an adapter, which says what it is for.

        Raises:
            NotFound: there is no such adapter.
        """
        with changing(self._stores, "adapter.describe", name) as change, change.write() as session:
            adapter_names.describe(session, name, self._clean(text, "the description"))

    def note(self, reference: str, text: str) -> values.AdapterVersion:
        """Replace the notes of the version."""
        with changing(self._stores, "version.note", reference) as change, change.write() as session:
            return _named(change, adapter_versions.edit_notes(session, reference, self._clean(text, "the notes")))

    def card(self, reference: str) -> Card:
        """Return the model card of the version: written from what is known now, or as a user edited it.

        Raises:
            NotFound: there is no such version.
        """
        return cards.read_card(self.get(reference), self._stores)

    def edit_card(self, reference: str, text: str, *, expected: str | None = None) -> Card:
        """Replace the text of the version's model card. Its identity stays, and its metadata are written as before.

        The card reaches exports, pushes, bundles and searches.

        Args:
            text: Markdown. It may begin with the metadata of the card, as `card` returns them.
            expected: `revision` of the card that the text was made of; None replaces whatever is there.

        Raises:
            NotFound: there is no such version.
            InvalidInput: the text is empty or too long, or has other metadata.
            Conflict: the card was edited since.
        """
        with changing(self._stores, "card.edit", reference) as change:
            version = self.get(reference)
            body = self._clean(cards.check_edited(text, cards.read_card(version, self._stores)), "the card")
            with change.write() as session:
                edit = adapter_versions.edit_card(session, version.reference, body, expected=expected)
                edited = _named(change, edit)
        return cards.read_card(edited, self._stores)

    def reset_card(self, reference: str) -> Card:
        """Bring the written card of the version back in place of an edited one.

        Raises:
            NotFound: there is no such version.
        """
        from finch_hub.artifacts.cards.model_card import write_searched_text

        with changing(self._stores, "card.reset", reference) as change:
            version = self.get(reference)
            written = self._stores.redactor.clean(write_searched_text(cards.find_facts(version, self._stores)))
            with change.write() as session:
                reset = adapter_versions.edit_card(session, version.reference, written, is_written=True)
                version = _named(change, reset)
        return cards.read_card(version, self._stores)

    def find_deleted(self, *, limit: int = 100, after: str | None = None) -> adapter_deletion.DeletionPage:
        """Return a page of the adapters and versions that are deleted, newest first.

        Args:
            limit: largest number of deletions of the page, 1 to 1,000.
            after: `next` of the page before.
        """
        with self._stores.database.read() as session:
            return adapter_deletion.find(session, limit=limit, after=after)

    def measure_deletion(self, reference: str) -> adapter_deletion.Extent:
        """Return the number of the versions that `delete` would delete, and the bytes of their files.

        Raises:
            InvalidReference: the reference has an alias, which may point at another version later.
            NotFound: there is no such version or adapter.
        """
        named = _parse_unmoved(reference, "delete")
        with self._stores.database.read() as session:
            return adapter_deletion.measure(session, named)

    def delete(self, reference: str) -> adapter_deletion.Deletion:
        """Delete one version, given as `name/3`, or an adapter with all its versions, given as `name`.

        Nothing finds it then, but its number and its place in the lineage of others stay. It can be restored, until a
        collection removes its files.

        Raises:
            InvalidReference: the reference has an alias, which may point at another version later.
            NotFound: there is no such version or adapter.
            Conflict: aliases point at it, or unfinished jobs need it; the text has all reasons.
        """
        named = _parse_unmoved(reference, "delete")
        action: audit.Action = "version.delete" if named.version is not None else "adapter.delete"
        with self._stores.use_reserve(), changing(self._stores, action, reference) as change, change.write() as session:
            deletion = adapter_deletion.delete(session, named)
            change.details["versions"] = deletion.versions if named.version is None else None
            return deletion

    def restore(self, reference: str) -> list[str]:
        """Restore a deleted version, or an adapter with the versions that were deleted with it.

        Return the references of the versions. If an adapter has versions that cannot be restored, they stay deleted,
        and warnings name them.

        Raises:
            InvalidReference: the reference has an alias.
            NotFound: there is no such version or adapter.
            Deleted: it was purged, or it is a version of a deleted adapter.
            Conflict: it is not deleted, or no version can be restored: their bases or files were removed since, or are
                damaged.
        """
        from finch_hub.registry import artifact_lock
        from finch_hub.storage.inspection import list_damage

        named = _parse_unmoved(reference, "restore")
        action: audit.Action = "version.restore" if named.version is not None else "adapter.restore"
        with changing(self._stores, action, reference) as change:
            with self._stores.database.read() as session:
                trees = dict.fromkeys(adapter_deletion.list_restorable(session, named))
            # Before the transaction: every byte is read, and other writers would wait for that.
            damage = {
                tree: list_damage(tree, self._stores)
                for tree in progress.track(trees, "checking adapters", total=len(trees))
            }

            def find_damage(tree: str) -> list[str] | None:
                if tree not in damage:  # it was deleted meanwhile
                    damage[tree] = list_damage(tree, self._stores)
                return damage[tree] if damage[tree] or self._has_files(tree) else None  # it may be removed meanwhile

            with change.write() as session:
                artifact_lock.share(session)
                restored = adapter_deletion.restore(session, named, list_damage=find_damage)
                change.details["versions"] = len(restored.versions) if named.version is None else None
        for problem in restored.problems:
            warnings.warn(errors.FinchWarning(f"not all of {reference} is restored: {problem}"), stacklevel=2)
        return list(restored.versions)

    def check_purge(self, reference: str) -> list[str]:
        """Return the references of the versions that `purge` would purge, with its errors. The audit has a refusal."""
        from finch_hub.registry import adapter_purges

        named = _parse_unmoved(reference, "purge")
        with changing(self._stores, _purge_action(named), reference), self._stores.database.read() as session:
            return adapter_purges.check(session, named)

    def purge(self, reference: str, *, expected: Sequence[str] | None = None) -> PurgedAdapter:
        """Purge a version, or an adapter with all its versions, deleted or not. Nobody can restore it.

        The number and the place in the lineage of others stay. Tags, card, settings, figures and evaluations go, and
        so do the files that nothing else refers to.

        Args:
            expected: versions that may go, as `check_purge` returned them; None for all that there are.

        Raises:
            InvalidReference: the reference has an alias.
            NotFound: there is no such version or adapter.
            Deleted: it is purged already.
            Conflict: versions that are not purged were made of it, aliases point at it, or unfinished jobs need it; the
                text has all reasons.
        """
        from finch_hub.storage.adapter_purging import purge_adapter

        named = _parse_unmoved(reference, "purge")
        with self._stores.use_reserve(), changing(self._stores, _purge_action(named), reference) as change:
            return purge_adapter(named, change, self._stores, expected=expected)

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

    def datasets(self, reference: str) -> tuple[str, ...]:
        """Return the names of the data sets that a version was trained or validated on, and of what they are made of.

        Raises:
            NotFound: there is no such version.
        """
        with self._stores.database.read() as session:
            lineage = adapter_versions.resolve(session, reference).lineage
            digests = [digest for digest in (lineage.train_digest, lineage.validation_digest) if digest is not None]
            return tuple(datasets.list_source_names(session, digests))

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
        with changing(self._stores, "version.create", name, kind="import") as change:
            if source == "":  # as a path, it would be the working directory
                raise errors.NotFound("file or folder", "")
            if ADDRESS.match(str(source)) and not settings.expand_home(source).exists():
                what = f"{strip_credentials(str(source))} is an address, and nothing is downloaded"
                raise errors.InvalidInput(what, fix="download the adapter's folder or file, and import that")
            path = settings.expand_home(source)
            return importing.import_files(path, change, self._stores, name=name, base=base, environment={})

    def check(self, reference: str) -> values.AdapterVersion:
        """Hold an unchecked version against its base, and make it ready if it fits.

        Raises:
            NotFound: there is no such version.
            Unavailable: the files of the base are not on this machine.
            Incompatible: the adapter does not fit the base, with everything that is wrong. It stays unchecked.
        """
        with changing(self._stores, "version.check", reference) as change:
            version = self.get(reference)
            return importing.check_version(version, change, self._stores) if version.state == "unchecked" else version

    def _has_files(self, tree: str) -> bool:
        """Tell whether all files of a version are stored."""
        from finch_hub.artifacts.inventory import has_tree

        try:
            return has_tree(self._stores.artifacts, tree)
        except errors.RefusedArtifact:  # its list of files is damaged
            return False

    def _clean_tag(self, text: str) -> str:
        """Return a tag to be stored without a secret in its value, and warn if it had one."""
        clean = self._clean(text, "a tag")
        if clean.partition("=")[0] != text.partition("=")[0]:
            what = "the name of a tag looks like a secret, or is one of this environment"
            raise errors.InvalidReference(what, fix="choose another name")
        return clean

    def _clean(self, text: str, place: str) -> str:
        """Return a text to be stored without secrets, and warn if it had one."""
        clean = self._stores.redactor.clean(text)
        if clean != text:
            warnings.warn(errors.FinchWarning(f"masked a secret in {place}"), stacklevel=3)
        return clean


def _named(change: Change, version: values.AdapterVersion) -> values.AdapterVersion:
    """Name the version in the audit for which the reference stood."""
    change.on = version.reference
    return version


def _purge_action(named: AdapterReference) -> audit.Action:
    return "version.purge" if named.version is not None else "adapter.purge"


def _parse_unmoved(reference: str, verb: str) -> AdapterReference:
    """Return a reference that names the same later.

    Raises:
        InvalidReference: the reference has an alias, or is not well formed.
    """
    parsed = AdapterReference.parse(reference)
    if parsed.alias is not None or "@" in reference:
        what = f"cannot {verb} {reference!r}: it may name another version later"
        fix = "give a version number, such as name/3, or the name alone for all versions"
        raise errors.InvalidReference(what, fix=fix)
    return parsed
