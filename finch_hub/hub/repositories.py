"""Exchange with the Hugging Face Hub: a version is pushed as one commit with a tag, and pulled through the gate."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finch_hub import errors
from finch_hub.artifacts.config_cleaning import MAX_BYTES as MAX_CONFIG_BYTES
from finch_hub.artifacts.config_cleaning import canonical_json
from finch_hub.formats.atomic_writes import scratch_folder
from finch_hub.formats.finch_record import RECORD, read_record, write_record
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.hub import hugging_face
from finch_hub.hub.adapters import Adapters
from finch_hub.hub.bases import Bases
from finch_hub.hub.hugging_face import RepositoryReference, parse_repository, translate_errors
from finch_hub.registry import adapter_names, adapter_versions, values
from finch_hub.specs.bases import is_hub_id
from finch_hub.specs.options import name_option
from finch_hub.specs.value import Value
from finch_hub.texts.secret_shapes import redact_values

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

    from finch_hub.storage.stores import Stores

CARD = "README.md"
# Nothing else leaves the machine: no samples, no examples, and no part of the record that a later version adds.
_PUBLIC = ("format", "name", "kind", "identity", "job", "base", "spec", "lineage", "metrics")
_BASE = {"revision", "public_id", "fingerprint", "architecture"}
_HOME = re.compile(r"(?<![\w/])/(?:home|Users)/[^/\s\"'`]+")


class PushedVersion(Value):
    """A version in a repository.

    Attributes:
        version: reference of the version.
        tag: tag of the commit.
        address: page of the commit.
        is_new: whether this push made the commit or the tag.
        differs: files that are other ones in an earlier push, whose adapter is the same.
    """

    version: str
    repository: str
    tag: str
    commit: str
    address: str
    is_new: bool
    differs: tuple[str, ...] = ()


class PulledVersion(Value):
    """A version from a repository.

    Attributes:
        is_new: whether this pull made the version, or the adapter had one of the same commit.
        identity: whether it is the one in `finch.json`, was changed to fit the base, or was compared with nothing.
    """

    version: values.AdapterVersion
    repository: str
    revision: str
    commit: str
    is_new: bool
    identity: Literal["equal", "changed", "unknown"]


class Repositories:
    """The repositories of the Hugging Face Hub to which versions go, and from which they come."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def push(self, reference: str, repository: str, *, private: bool = False) -> PushedVersion:
        """Push a version as one commit with the tag of its number, such as `v3`. A second push makes no commit.

        The commit has the adapter in PEFT's format, its card and its `finch.json`, without secrets and local paths.

        Args:
            repository: `owner/name`. It is made if it does not exist.
            private: whether a new repository is private. One that exists must be, too.

        Raises:
            NotFound: there is no such version.
            InvalidReference: the repository is not well formed.
            Conflict: the version is unchecked, the tag names another adapter, the repository holds a model, or it is
                public and should be private.
            AccessDenied: there is no token, or it may not write there.
            Unavailable: the Hugging Face Hub does not answer, or the offline mode is on.
        """
        place = parse_repository(repository)
        if place.revision is not None:
            what = f"cannot push to {repository!r}: the tag is the number of the version"
            raise errors.InvalidReference(what, fix=f"give {place.name}")
        with self._stores.database.read() as session:
            version = adapter_versions.resolve_usable(session, reference)
        action = f"push {version.reference} to {place.name}"
        hugging_face.require_login(action)
        if version.base.hub_id is None:
            self._warn_unnamed(version.base)
        from huggingface_hub import HfApi

        with scratch_folder(self._stores.settings.home / "push") as scratch:
            files = self._write_files(version, scratch)
            with translate_errors(action, place):
                return _push(HfApi(), version, place.name, files, private=private)

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
        with self._stores.database.read() as session:
            adapter_names.check_free(session, name)
        known = Bases(self._stores).get(base) if base is not None else None
        with scratch_folder(self._stores.settings.home / "pull") as scratch:
            folder = scratch / place.name.rpartition("/")[2]
            commit, named = _download(place, folder)
            record = read_record(folder)
            origin = {"repository": place.name, "revision": place.revision or "main", "commit": commit}
            version = self._find_pulled(name, origin)
            is_new = version is None
            if version is None:
                known = known or self._find_base(place, record, folder, named)
                version = Adapters(self._stores).import_files(
                    folder, name=name, base=known.fingerprint, environment={"pulled": origin}
                )
        return PulledVersion(
            version=version, **origin, is_new=is_new, identity=_compare_identity(record, version.identity)
        )

    def _warn_unnamed(self, base: values.Base) -> None:
        add = f"finch-hub bases add {base.name} --id OWNER/NAME"
        what = f"base {base.name} has no id on the Hugging Face Hub, so the card names none (give it with `{add}`)"
        warnings.warn(errors.FinchWarning(what), stacklevel=3)

    def _write_files(self, version: values.AdapterVersion, scratch: Path) -> Path:
        """Write the files of a version for others, and return their folder."""
        from finch_hub.artifacts import gate
        from finch_hub.engine.export.parameters import PEFTParameters
        from finch_hub.engine.export.peft import KIND, export_peft
        from finch_hub.formats.model_card import write_card

        stored, label = self._stores.artifacts.fetch_tree(version.digest), version.base.label
        export_peft(stored, None, scratch / "exported", PEFTParameters(base_model=label))
        admitted = gate.admit_adapter(scratch / "exported", scratch / "files")
        config = json.loads((admitted.folder / CONFIG).read_bytes())
        (admitted.folder / CONFIG).write_bytes(canonical_json({**config, "base_model_name_or_path": label}))
        stored_record = read_record(stored)
        record: dict[str, Any] = {name: stored_record[name] for name in _PUBLIC if name in stored_record}
        record["base"] = {**version.base.model_dump(include=_BASE), "source": label}
        record = redact_values(record, self._clean)
        write_record(admitted.folder, KIND, {"adapter": record, "identity": admitted.identity})
        card = version.card
        if "lineage" in record and card in ("", _read_text(stored / CARD)):  # nobody edited it
            card = write_card(record, label)
        (admitted.folder / CARD).write_text(self._clean(card or ""), encoding="utf-8")
        return admitted.folder

    def _clean(self, text: str) -> str:
        """Return a text for others: without secrets, and without the folders and the user of this machine."""
        text = self._stores.redactor.clean(text)
        for place in (self._stores.settings.home, Path.home(), Path.cwd()):
            if place != Path(place.anchor):
                text = re.sub(rf"(?<!\w){re.escape(str(place))}(?![\w.-])", "~", text)
        return _HOME.sub("~", text)

    def _find_pulled(self, name: str, origin: dict[str, str]) -> values.AdapterVersion | None:
        """Return the newest version of an adapter that came from the same commit."""
        with self._stores.database.read() as session:
            try:
                versions = adapter_versions.find(session, name)
            except errors.NotFound:
                return None
        keys = ("repository", "commit")
        return next((v for v in versions if all(_read_origin(v).get(key) == origin[key] for key in keys)), None)

    def _find_base(
        self, place: RepositoryReference, record: Mapping[str, Any], folder: Path, named: Iterable[str]
    ) -> values.Base:
        """Return the registered base that an adapter names in `finch.json`, its config or its card.

        Raises:
            Incompatible: it names none, or one that is not registered.
        """
        made = record.get("adapter", record)
        recorded = made.get("base") if isinstance(made, dict) else None
        recorded = recorded if isinstance(recorded, dict) else {}
        config = _read_config(folder)
        texts = (recorded.get("public_id"), recorded.get("source"), config.get("base_model_name_or_path"), *named)
        ids = [name for name in texts if isinstance(name, str) and name]
        registered = Bases(self._stores).find()
        fingerprint = recorded.get("fingerprint")
        for base in registered:
            if fingerprint is not None and base.fingerprint == fingerprint:
                return base
        option = name_option("base")
        public = next((name for name in ids if is_hub_id(name)), None)
        if fingerprint is None:
            for name in ids:
                for base in registered:
                    if name in (base.name, base.hub_id):
                        return base
        if public is None:
            fix = f"name a registered base with {option}"
            raise errors.Incompatible("names no base of the Hugging Face Hub", where=str(place), fix=fix)
        revision = recorded.get("revision")
        words = f"finch-hub bases add {public}"
        if isinstance(revision, str) and re.fullmatch(r"[0-9a-f]{40}", revision):
            words += f" --revision {revision}"
        has_other = fingerprint is not None and any(base.hub_id in ids for base in registered)
        what = f"is for base {public}, which is registered with other files only" if has_other else (
            f"is for base {public}, which is not registered"
        )  # fmt: skip
        raise errors.Incompatible(what, where=str(place), fix=f"run `{words}`, or name a base with {option}")


def _read_config(folder: Path) -> dict[str, Any]:
    """Return the config of a folder, empty if it cannot be read; the gate says why."""
    from finch_hub.formats.json_checks import parse_object
    from finch_hub.formats.regular_files import read_regular_file

    try:
        return parse_object(read_regular_file(folder / CONFIG))
    except (errors.RefusedArtifact, ValueError):
        return {}


def _compare_identity(record: Mapping[str, Any], identity: str) -> Literal["equal", "changed", "unknown"]:
    """Compare an identity with those in a record: of the files, and of the version that they were made of."""
    made = record.get("adapter")
    declared = {record.get("identity"), made.get("identity") if isinstance(made, dict) else None} - {None}
    if not declared:
        return "unknown"
    return "equal" if identity in declared else "changed"


def _read_origin(version: values.AdapterVersion) -> dict[str, Any]:
    origin = version.lineage.environment.get("pulled")
    return origin if isinstance(origin, dict) else {}


def _read_text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _push(api: HfApi, version: values.AdapterVersion, name: str, files: Path, *, private: bool) -> PushedVersion:
    from huggingface_hub import CommitOperationAdd

    tag, info = f"v{version.number}", _find_repository(api, name)
    tagged = RepositoryReference(name=name, revision=tag)
    if info is None:
        api.create_repo(name, private=private or None)
    else:
        _check_repository(info, private=private)
        if any(ref.name == tag for ref in api.list_repo_refs(name).tags):
            there = api.model_info(name, revision=tag, files_metadata=True)
            differs = _find_changed(there, files)
            if WEIGHTS in differs or (CONFIG in differs and not _has_equal_config(there, files)):
                fix = f"push to another repository, or remove the tag with `hf repo tag delete {name} {tag}`"
                raise errors.Conflict(f"the tag {tag} of {name} is another adapter than {version.reference} ({fix})")
            return _describe(version, tagged, str(there.sha), is_new=False, differs=differs)
    if info is None or _find_changed(info, files):
        made = api.create_commit(
            name,
            [CommitOperationAdd(file.name, str(file)) for file in sorted(files.iterdir())],
            commit_message=f"Add {version.reference}",
            commit_description=f"Identity {version.identity}, pushed by Finch Hub.",
            parent_commit=info.sha if info is not None else None,
        )
        commit = made.oid
    else:
        commit = str(info.sha)  # an earlier push ended before its tag
    api.create_tag(name, tag=tag, revision=commit)
    return _describe(version, tagged, commit, is_new=True)


def _describe(
    version: values.AdapterVersion,
    tagged: RepositoryReference,
    commit: str,
    *,
    is_new: bool,
    differs: tuple[str, ...] = (),
) -> PushedVersion:
    return PushedVersion(
        version=version.reference,
        repository=tagged.name,
        tag=str(tagged.revision),
        commit=commit,
        address=hugging_face.make_address(tagged),
        is_new=is_new,
        differs=differs,
    )


def _find_repository(api: HfApi, name: str) -> ModelInfo | None:
    from huggingface_hub import errors as hub_errors

    try:
        return api.model_info(name, files_metadata=True)
    except hub_errors.GatedRepoError:
        raise
    except hub_errors.RepositoryNotFoundError:
        return None


def _check_repository(info: ModelInfo, *, private: bool) -> None:
    if private and info.private is False:
        fix = f"make it private in its settings, or omit {name_option('private')}"
        raise errors.Conflict(f"the repository {info.id} exists and is public ({fix})")
    names = [sibling.rfilename for sibling in info.siblings or ()]
    model = next((n for n in names if n == "config.json" or (n.endswith(".safetensors") and n != WEIGHTS)), None)
    if model is not None and "/" not in model:
        what = f"the repository {info.id} holds a model ({model}), which an adapter beside it would break"
        raise errors.Conflict(f"{what} (push to another repository)")


def _find_changed(info: ModelInfo, files: Path) -> tuple[str, ...]:
    """Return the names of the files that a commit lacks, or has with other bytes."""
    there = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    changed = []
    for file in sorted(files.iterdir()):
        sibling = there.get(file.name)
        if sibling is None:
            changed.append(file.name)
        elif sibling.lfs is not None:
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != sibling.lfs.sha256:
                    changed.append(file.name)
        elif _hash_blob(file.read_bytes()) != sibling.blob_id:
            changed.append(file.name)
    return tuple(changed)


def _has_equal_config(info: ModelInfo, files: Path) -> bool:
    """Tell whether a commit has the config of an adapter, apart from the name of the base."""
    import huggingface_hub

    size = next((sibling.size for sibling in info.siblings or () if sibling.rfilename == CONFIG), None)
    if size is None or size > MAX_CONFIG_BYTES:
        return False
    there = Path(huggingface_hub.hf_hub_download(info.id, CONFIG, revision=info.sha))
    one, other = ({**_read_config(folder), "base_model_name_or_path": None} for folder in (there.parent, files))
    return one == other


def _hash_blob(content: bytes) -> str:
    """Return the hash by which Git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _download(place: RepositoryReference, folder: Path) -> tuple[str, list[str]]:
    """Copy the files of an adapter from a repository, and return the commit, and the bases that the card names."""
    import huggingface_hub

    action, wanted = f"pull {place}", [CONFIG, WEIGHTS, RECORD]
    is_offline, named, expected = hugging_face.is_offline(), [], None
    with translate_errors(action, place):
        if not is_offline:
            info = huggingface_hub.HfApi().model_info(place.name, revision=place.revision, files_metadata=True)
            _check_files(info, place, folder.parent)
            named, expected = _list_bases(info), info.sha
        snapshot = Path(huggingface_hub.snapshot_download(place.name, revision=place.revision, allow_patterns=wanted))
    if expected is not None and snapshot.name != expected:
        raise errors.Unavailable(f"could not {action}: its branch moved meanwhile (try again)")
    folder.mkdir()
    for name in wanted:
        if (snapshot / name).is_file():  # a link into the cache, out of its folder
            shutil.copyfile(snapshot / name, folder / name)
    return snapshot.name, named


def _list_bases(info: ModelInfo) -> list[str]:
    named = getattr(info.card_data, "base_model", None)
    return [name for name in ([named] if isinstance(named, str) else named or ()) if isinstance(name, str)]


def _check_files(info: ModelInfo, place: RepositoryReference, scratch: Path) -> None:
    """Check the names and sizes of a repository's files before they are downloaded.

    Raises:
        RefusedArtifact: there is no adapter in safetensors, or its files are too large.
        Unavailable: the disk has no room for them.
    """
    from finch_hub.artifacts.adapter_checks import DEFAULT_POLICY

    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    limits = {CONFIG: MAX_CONFIG_BYTES, WEIGHTS: DEFAULT_POLICY.max_bytes, RECORD: 2**22}
    problems = []
    for name in (CONFIG, WEIGHTS):
        if name not in sizes:
            pickles = [file for file in sizes if file.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
            found = f"; it has the pickle {pickles[0]}, which can run code" if pickles and name == WEIGHTS else ""
            fix = f"ask its owner to save the adapter with safetensors, as {name}" if found else (
                "name the repository of an adapter in PEFT's format"
            )  # fmt: skip
            problems.append(errors.Problem(what=f"has no {name}{found}", fix=fix))
    for name, limit in limits.items():
        if sizes.get(name, 0) > limit:
            what = f"has {sizes[name]:,} bytes, more than {limit:,}"
            problems.append(errors.Problem(where=name, what=what, fix="nothing was downloaded"))
    if problems:
        raise errors.RefusedArtifact(problems, subject=str(place))
    needed, free = sum(sizes.get(name, 0) for name in limits), shutil.disk_usage(scratch).free
    if needed > free:
        full = f"could not pull {place}: it has {needed:,} bytes, and {free:,} are free"
        raise errors.Unavailable(f"{full} (free some space in {scratch.parent})")
