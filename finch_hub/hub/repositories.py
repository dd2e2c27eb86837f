"""Exchange with the Hugging Face Hub: a version is pushed as one commit with a tag, and pulled through the gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.artifacts import hugging_face
from finch_hub.artifacts.hugging_face import RepositoryReference, parse_repository, translate_errors
from finch_hub.formats.atomic_writes import scratch_folder
from finch_hub.formats.finch_record import read_record
from finch_hub.hub import importing, pulling, pushing
from finch_hub.hub.bases import Bases
from finch_hub.hub.pulling import PulledVersion
from finch_hub.hub.pushing import PushedVersion
from finch_hub.registry import adapter_names, adapter_versions, values
from finch_hub.specs.evidence import Samples
from finch_hub.storage.changes import Change, changing
from finch_hub.storage.samples import read_samples_of

if TYPE_CHECKING:
    from finch_hub.storage.stores import Stores


class Repositories:
    """The repositories of the Hugging Face Hub to which versions go, and from which they come."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def push(
        self, reference: str, repository: str, *, private: bool = False, main: bool = False, samples: bool = False
    ) -> PushedVersion:
        """Push a version as one commit with the tag of its number, such as `v3`. A second push makes no commit,
        unless the state of the version changed.

        If a newer version was pushed, this one gets its tag only, and the branch main stays as it is.

        The commit has the adapter in PEFT's format, its card with the loss curve and its `finch.json`. They are without
        secrets and local paths.

        Args:
            repository: `owner/name`. It is made if it does not exist.
            private: whether a new repository is private. One that exists must be, too.
            main: whether main takes the version in any case, also if it holds a newer one or another adapter.
            samples: whether the card shows the version's sample answers, which quote rows of its data.

        Raises:
            NotFound: there is no such version.
            InvalidReference: the repository is not well formed.
            Conflict: the version is unchecked, or has no sample answers that are asked for; the tag names another
                adapter; main holds another adapter or a model; or the repository is public and should be private.
            AccessDenied: there is no token, or it may not write there.
            Unavailable: the Hugging Face Hub does not answer, or the offline mode is on.
        """
        place = parse_repository(repository)
        if place.revision is not None:
            what = f"cannot push to {repository!r}: the tag is the number of the version"
            raise errors.InvalidReference(what, fix=f"give {place.name}")
        with changing(self._stores, "version.push", reference, to=place.name) as change:
            with self._stores.database.read() as session:
                version = adapter_versions.resolve_usable(session, reference)
                found = read_samples_of(session, version.reference, self._stores) if samples else None
                names = adapter_names.list_names(session, adapter_names.find_id(session, version.name) or 0)
            change.on = version.reference
            pushed = self._push(version, place, names, found, private=private, main=main)
            change.details.update(commit=pushed.commit, tag=pushed.tag)
            with change.write():  # its entry alone
                return pushed

    def _push(
        self,
        version: values.AdapterVersion,
        place: RepositoryReference,
        names: Sequence[str],
        samples: Samples | None,
        *,
        private: bool,
        main: bool,
    ) -> PushedVersion:
        action = f"push {version.reference} to {place.name}"
        hugging_face.require_login(action)
        pushing.warn_unnamed(version.base)
        from huggingface_hub import HfApi

        with scratch_folder(self._stores.settings.home / "push") as scratch:
            files = pushing.write_files(version, place.name, self._stores, scratch, samples=samples)
            with translate_errors(action, place):
                pushed = pushing.push_files(
                    HfApi(), version, place.name, files, names=names, private=private, main=main
                )
            pushing.warn_unusable(version, pushed)
            return pushed

    def pull(self, repository: str, *, name: str, base: str | None = None) -> PulledVersion:
        """Pull an adapter as a new version, after the checks of an import. A second pull of a commit makes none.

        Only the config, the safetensors weights and `finch.json` are downloaded.

        Args:
            repository: `owner/name`, or `owner/name@revision` with a tag, a branch or a commit.
            name: name of the adapter in this hub.
            base: name of a registered base. None takes the one that the adapter names, if it is registered.

        Raises:
            NotFound: there is no such repository, revision or base.
            InvalidReference: a name is not well formed.
            RefusedArtifact: the repository has no adapter in safetensors, its files are too large, or the gate refuses
                them, with everything that is wrong.
            Incompatible: the adapter does not fit the base, or its base is not registered.
            AccessDenied: the repository is gated, or the token is wrong.
            Unavailable: the Hugging Face Hub does not answer, or the offline mode is on and the cache lacks the files.
        """
        place = parse_repository(repository)
        with changing(self._stores, "version.create", name, kind="import", source=str(place)) as change:
            return self._pull(place, name, base, change)

    def _pull(self, place: RepositoryReference, name: str, base: str | None, change: Change) -> PulledVersion:
        with self._stores.database.read() as session:
            adapter_names.check_free(session, name)
            before = adapter_versions.read_meanings(session, [name])
        bases = Bases(self._stores)
        known = bases.get(base) if base is not None else None
        with scratch_folder(self._stores.settings.home / "pull") as scratch:
            folder = scratch / place.name.rpartition("/")[2]
            commit, named = pulling.download(place, folder)
            record = read_record(folder)
            origin = {"repository": place.name, "revision": place.revision or "main", "commit": commit}
            state = pulling.read_state(record)
            recorded = {"pulled": origin if state in (None, "ready") else {**origin, "state": state}}
            declared = pulling.list_identities(record)
            with self._stores.database.read() as session:
                version = pulling.find_pulled(session, name, origin)
            is_new = False
            if version is None:
                known = known or pulling.find_base(place, record, folder, named, bases.find())
                try:
                    version = importing.import_files(
                        folder,
                        change,
                        self._stores,
                        name=name,
                        base=known.fingerprint,
                        environment=recorded,
                        state=state,
                        declared=declared,
                        look_again=lambda session: pulling.refuse_second(session, name, origin),
                    )
                    is_new = True
                except pulling.AlreadyPulled as earlier:
                    version = earlier.version
        identity = pulling.compare_identity(declared, version.identity)
        with self._stores.database.read() as session:
            meanings = adapter_versions.explain_meanings(before, adapter_versions.read_meanings(session, [name]))
        return PulledVersion(version=version, **origin, is_new=is_new, identity=identity, meanings=tuple(meanings))
