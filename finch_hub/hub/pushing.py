"""Files of a version for others, and their commit in a repository of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finch_hub import errors
from finch_hub.artifacts import hugging_face
from finch_hub.artifacts.config_cleaning import MAX_BYTES, canonical_json
from finch_hub.artifacts.hugging_face import RepositoryReference
from finch_hub.formats.card_files import PICTURES, write_card_files
from finch_hub.formats.finch_record import RECORD, parse_record, read_record, write_record
from finch_hub.formats.peft_config import read_leniently
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.registry import values
from finch_hub.specs.evidence import Samples
from finch_hub.specs.options import name_option, write_options
from finch_hub.specs.value import JsonObject, Value
from finch_hub.storage import cards
from finch_hub.storage.publishing import PRIVATE
from finch_hub.texts.secret_shapes import redact_values

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

    from finch_hub.storage.stores import Stores

# Nothing else leaves the machine: no examples, and no part of the record that a later version adds.
_PUBLIC = ("format", "name", "kind", "identity", "job", "base", "spec", "lineage", "metrics")
_BASE = {"revision", "public_id", "fingerprint", "architecture"}
_HOME = re.compile(r"(?<![\w/])/(?:home|Users)/[^/\s\"'`]+")


class PushedVersion(Value):
    """A version in a repository.

    Attributes:
        version: reference of the version.
        tag: tag of the commit.
        address: page of the commit.
        is_new: whether this push made a commit or the tag.
        is_main: whether the branch main holds the adapter, too. It does not if a newer version was pushed.
        differs: files that are other ones in an earlier push, whose adapter is the same.
    """

    version: str
    repository: str
    tag: str
    commit: str
    address: str
    is_new: bool
    is_main: bool
    differs: tuple[str, ...] = ()


def warn_unnamed(base: values.Base) -> None:
    """Warn if a base has no id on the Hugging Face Hub, so that the card can name none."""
    if base.hub_id is not None:
        return
    add = f"finch-hub bases add {base.name} --public-id OWNER/NAME"
    what = f"base {base.name} has no id on the Hugging Face Hub, so the card names none (give it with `{add}`)"
    warnings.warn(errors.FinchWarning(what), stacklevel=3)


def warn_unusable(version: values.AdapterVersion, pushed: PushedVersion) -> None:
    """Warn if a version has a state that keeps it from use. Whether a pull takes it over depends on the files there."""
    if version.state == "ready":
        return
    again = f"`hf repos tag delete {pushed.repository} {pushed.tag}`, and push it again"
    what = f"{version.reference} is {version.state}: a pull takes over its state"
    if RECORD in pushed.differs:
        what = f"{version.reference} is {version.state}, which the files there do not say (run {again})"
    warnings.warn(errors.FinchWarning(what), stacklevel=3)


def write_files(
    version: values.AdapterVersion, repository: str, stores: Stores, scratch: Path, *, samples: Samples | None = None
) -> Path:
    """Write the files of a version for others in a repository, and return their folder.

    Args:
        samples: sample answers for the card, which quote rows.
    """
    from finch_hub.artifacts import gate
    from finch_hub.artifacts.cards.samples import format_samples
    from finch_hub.engine.export.parameters import PEFTParameters
    from finch_hub.engine.export.peft import KIND, export_peft

    def clean(text: str) -> str:
        return _clean(text, stores)

    stored, label = stores.artifacts.fetch_tree(version.digest), version.base.label
    export_peft(stored, None, scratch / "exported", PEFTParameters(base_model=label))
    admitted = gate.admit_adapter(scratch / "exported", scratch / "files")
    config = json.loads((admitted.folder / CONFIG).read_bytes())
    (admitted.folder / CONFIG).write_bytes(canonical_json({**config, "base_model_name_or_path": label}))
    stored_record = read_record(stored)
    record: JsonObject = {name: stored_record[name] for name in _PUBLIC if name in stored_record}
    # It may have been renamed since, and its state is not that of its bytes.
    record |= {"name": version.name, "number": version.number, "state": version.state}
    if "lineage" in record:
        parents = [parent.model_dump(mode="json") for parent in version.lineage.parents]
        record["lineage"] = {**record["lineage"], "parents": parents}
    if isinstance(record.get("spec"), dict):
        record["spec"] = {name: value for name, value in record["spec"].items() if name not in PRIVATE}
    record["base"] = {**version.base.model_dump(include=_BASE), "source": label}
    record = redact_values(record, clean)
    write_record(admitted.folder, KIND, {"adapter": record, "identity": admitted.identity})
    card = cards.read_card(version, stores, repository=(repository, name_tag(version)))
    parts = [card.text.removesuffix(card.body), card.body]
    if samples is not None:  # an edited text may end within a block of code, which would take them in
        parts.insert(2 if card.edited_at is None else 1, f"{format_samples(samples)}\n")
    text = "\n".join(part.strip("\n") + "\n" for part in parts)
    write_card_files(admitted.folder, clean(text), card.pictures)
    return admitted.folder


def push_files(
    api: HfApi,
    version: values.AdapterVersion,
    name: str,
    files: Path,
    *,
    names: Collection[str],
    private: bool,
    main: bool,
) -> PushedVersion:
    """Make the commit and the tag of a version in a repository, unless they are there with today's state.

    The commit is on the branch main, unless main holds an adapter and a newer version was pushed. The tag moves only to
    a commit that has another state of the same adapter.

    Args:
        names: all names of the adapter, former ones too.
        main: whether main takes the version in any case.

    Raises:
        Conflict: the tag names another adapter, main holds another adapter or a model, or the repository is public and
            should be private.
    """
    tag, info = name_tag(version), _find_repository(api, name)
    tagged = RepositoryReference(name=name, revision=tag)
    if info is None:
        api.create_repo(name, private=private or None)
        commit = _commit(api, version, name, files, before=None)
        api.create_tag(name, tag=tag, revision=commit)
        return _describe(version, tagged, commit, is_new=True, is_main=True)
    _check_repository(info, private=private)
    refs = api.list_repo_refs(name)
    tags = {ref.name for ref in refs.tags}
    changed, has_old_state = _find_changed(info, files), False
    if tag in tags:
        there = api.model_info(name, revision=tag, files_metadata=True)
        differs = _find_changed(there, files)
        if _is_another(differs, there, files):
            fix = f"push to another repository, or remove the tag with `hf repos tag delete {name} {tag}`"
            raise errors.Conflict(f"the tag {tag} of {name} is another adapter than {version.reference} ({fix})")
        has_old_state = RECORD in differs and _has_old_state(_read_held(there), version, names)
    if tag in tags and not has_old_state:
        if f"finch-{tag}" in {ref.name for ref in refs.branches}:  # an earlier push ended before it removed it
            api.delete_branch(name, branch=f"finch-{tag}")
        is_main = not _is_another(changed, info, files)
        if is_new := not is_main and (main or not _holds_adapter(info)):
            _commit(api, version, name, files, before=info)
        return _describe(version, tagged, str(there.sha), is_new=is_new, is_main=is_main or is_new, differs=differs)
    is_main, commit = True, str(info.sha)  # an earlier push ended before its tag
    if changed:
        held = None if main else _read_held(info)
        is_other = held is not None and held.name not in names and _is_another(changed, info, files)
        if held is not None and is_other and not has_old_state:
            fix = f"push to another repository, or replace it with {write_options({'main': True})}"
            what = f"adapter {held.name}" if held.name else "an adapter that no hub pushed"
            raise errors.Conflict(f"main of {name} holds {what}, not {version.name} ({fix})")
        is_main = held is None or not (
            is_other or held.number > version.number or _has_newer_tag(api, name, tags, version, names)
        )
        if is_main:
            commit = _commit(api, version, name, files, before=info)
    branch = f"finch-{tag}"
    if not is_main:  # only the tag keeps this commit, which needs a branch until then
        commit = _commit_beside_main(api, version, name, files, branch)
    if has_old_state:
        api.delete_tag(name, tag=tag)
    api.create_tag(name, tag=tag, revision=commit)
    if not is_main:
        api.delete_branch(name, branch=branch)
    return _describe(version, tagged, commit, is_new=True, is_main=is_main)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    """Version that a repository holds, as its record names it; without a name, no hub pushed it.

    Attributes:
        restriction: the state that keeps it from use, None if it has another one.
    """

    name: str = ""
    number: int = 0
    restriction: values.VersionState | None = None


def _has_old_state(held: _Held | None, version: values.AdapterVersion, names: Collection[str]) -> bool:
    """Tell whether a record is of this version and has a state that it no longer has."""
    if held is None or held.name not in names or held.number != version.number:
        return False
    return held.restriction != values.read_restriction({"state": version.state})


def _read_held(info: ModelInfo) -> _Held | None:
    """Return the version that a commit holds, None if it holds none."""
    import huggingface_hub

    sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
    if not _holds_adapter(info):
        return None
    if RECORD not in sizes or sizes[RECORD] > MAX_BYTES:
        return _Held()
    record = parse_record(Path(huggingface_hub.hf_hub_download(info.id, RECORD, revision=info.sha)).read_bytes())
    made = record.get("adapter")
    made = made if isinstance(made, dict) else {}
    name, number = made.get("name"), made.get("number")
    return _Held(
        name=name if isinstance(name, str) else "",
        number=number if isinstance(number, int) else 0,
        restriction=values.read_restriction(made),
    )


def _holds_adapter(info: ModelInfo) -> bool:
    return WEIGHTS in hugging_face.list_files(info)


def _has_newer_tag(
    api: HfApi, name: str, tags: Collection[str], version: values.AdapterVersion, names: Collection[str]
) -> bool:
    """Tell whether a newer version of an adapter was pushed. The tag of anything else may have such a name, too."""
    newer = sorted((tag for tag in tags if _read_number(tag) > version.number), key=_read_number, reverse=True)
    for tag in newer:
        held = _read_held(api.model_info(name, revision=tag, files_metadata=True))
        if held is not None and held.name in names and held.number == _read_number(tag):
            return True
    return False


def _read_number(tag: str) -> int:
    """Return the number of the version that a tag names, 0 if it names none."""
    return int(tag[1:]) if re.fullmatch(r"v[1-9][0-9]{0,8}", tag, re.ASCII) else 0


def _commit(
    api: HfApi,
    version: values.AdapterVersion,
    name: str,
    files: Path,
    *,
    before: ModelInfo | None,
    branch: str | None = None,
) -> str:
    """Add files to those of a commit, without the pictures of the version before."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    hugging_face.avoid_missing_xet(name)
    operations: list[CommitOperationAdd | CommitOperationDelete]
    operations = [CommitOperationAdd(file.name, str(file)) for file in sorted(files.iterdir())]
    there = hugging_face.list_files(before) if before is not None else {}
    operations += [CommitOperationDelete(name) for name in PICTURES if name in there and not (files / name).exists()]
    made = api.create_commit(
        name,
        operations,
        commit_message=f"Add {version.reference}",
        commit_description=f"Identity {version.identity}, pushed by Finch Hub.",
        revision=branch,
        parent_commit=None if before is None else before.sha,
    )
    return str(made.oid)


def _commit_beside_main(api: HfApi, version: values.AdapterVersion, name: str, files: Path, branch: str) -> str:
    """Make a commit on a branch, unless an earlier push made it, and return the commit."""
    api.create_branch(name, branch=branch, exist_ok=True)
    there = api.model_info(name, revision=branch, files_metadata=True)
    return (
        _commit(api, version, name, files, before=there, branch=branch)
        if _find_changed(there, files)
        else str(there.sha)
    )


def _clean(text: str, stores: Stores) -> str:
    """Return a text for others: without secrets, and without the folders and the user of this machine."""
    text = stores.redactor.clean(text)
    for place in (stores.settings.home, Path.home(), Path.cwd()):
        if place != Path(place.anchor):
            text = re.sub(rf"(?<!\w){re.escape(str(place))}(?![\w.-])", "~", text)
    return _HOME.sub("~", text)


def name_tag(version: values.AdapterVersion) -> str:
    """Return the tag of a version in its repository."""
    return f"v{version.number}"


def _describe(
    version: values.AdapterVersion,
    tagged: RepositoryReference,
    commit: str,
    *,
    is_new: bool,
    is_main: bool,
    differs: tuple[str, ...] = (),
) -> PushedVersion:
    return PushedVersion(
        version=version.reference,
        repository=tagged.name,
        tag=str(tagged.revision),
        commit=commit,
        address=hugging_face.make_address(tagged),
        is_new=is_new,
        is_main=is_main,
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
    names = list(hugging_face.list_files(info))
    model = next((n for n in names if n == "config.json" or (n.endswith(".safetensors") and n != WEIGHTS)), None)
    if model is not None and "/" not in model:
        what = f"the repository {info.id} holds a model ({model}), which an adapter beside it would break"
        raise errors.Conflict(f"{what} (push to another repository)")


def _find_changed(info: ModelInfo, files: Path) -> tuple[str, ...]:
    """Return the names of the files that a commit lacks, or has with other bytes."""
    there = hugging_face.list_files(info)
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


def _is_another(changed: Collection[str], info: ModelInfo, files: Path) -> bool:
    """Tell whether a commit has another adapter, by the files that differ there. The name of the base is no part."""
    return WEIGHTS in changed or (CONFIG in changed and not _has_equal_config(info, files))


def _has_equal_config(info: ModelInfo, files: Path) -> bool:
    """Tell whether a commit has the config of an adapter, apart from the name of the base."""
    import huggingface_hub

    size = next((sibling.size for sibling in info.siblings or () if sibling.rfilename == CONFIG), None)
    if size is None or size > MAX_BYTES:
        return False
    there = Path(huggingface_hub.hf_hub_download(info.id, CONFIG, revision=info.sha))
    one, other = ({**read_leniently(folder), "base_model_name_or_path": None} for folder in (there.parent, files))
    return one == other


def _hash_blob(content: bytes) -> str:
    """Return the hash by which Git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
