"""Files of a version for others, and their commit in a repository of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finch_hub import errors
from finch_hub.artifacts import hugging_face
from finch_hub.artifacts.config_cleaning import MAX_BYTES, canonical_json
from finch_hub.artifacts.hugging_face import RepositoryReference
from finch_hub.formats.finch_record import read_record, write_record
from finch_hub.formats.peft_config import read_leniently
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.registry import evidence, values
from finch_hub.specs.options import name_option
from finch_hub.specs.value import JsonObject, Value
from finch_hub.storage.publishing import PRIVATE
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


def warn_unnamed(base: values.Base) -> None:
    """Warn if a base has no id on the Hugging Face Hub, so that the card can name none."""
    if base.hub_id is not None:
        return
    add = f"finch-hub bases add {base.name} --id OWNER/NAME"
    what = f"base {base.name} has no id on the Hugging Face Hub, so the card names none (give it with `{add}`)"
    warnings.warn(errors.FinchWarning(what), stacklevel=3)


def write_files(version: values.AdapterVersion, stores: Stores, scratch: Path) -> Path:
    """Write the files of a version for others, and return their folder."""
    from finch_hub.artifacts import gate
    from finch_hub.engine.export.parameters import PEFTParameters
    from finch_hub.engine.export.peft import KIND, export_peft
    from finch_hub.formats.model_card import write_card

    def clean(text: str) -> str:
        return _clean(text, stores)

    stored, label = stores.artifacts.fetch_tree(version.digest), version.base.label
    export_peft(stored, None, scratch / "exported", PEFTParameters(base_model=label))
    admitted = gate.admit_adapter(scratch / "exported", scratch / "files")
    config = json.loads((admitted.folder / CONFIG).read_bytes())
    (admitted.folder / CONFIG).write_bytes(canonical_json({**config, "base_model_name_or_path": label}))
    stored_record = read_record(stored)
    record: dict[str, Any] = {name: stored_record[name] for name in _PUBLIC if name in stored_record}
    record["name"] = version.name  # it may have been renamed since
    if "lineage" in record:
        parents = [parent.model_dump(mode="json") for parent in version.lineage.parents]
        record["lineage"] = {**record["lineage"], "parents": parents}
    if isinstance(record.get("spec"), dict):
        record["spec"] = {name: value for name, value in record["spec"].items() if name not in PRIVATE}
    record["base"] = {**version.base.model_dump(include=_BASE), "source": label}
    record = redact_values(record, clean)
    write_record(admitted.folder, KIND, {"adapter": record, "identity": admitted.identity})
    card = version.card
    if "lineage" in record and card in ("", _read_text(stored / CARD)):  # nobody edited it
        card = write_card(record, label, _read_evidence(version, stores))
    (admitted.folder / CARD).write_text(clean(card or ""), encoding="utf-8")
    return admitted.folder


def push_files(api: HfApi, version: values.AdapterVersion, name: str, files: Path, *, private: bool) -> PushedVersion:
    """Make the commit and the tag of a version in a repository, unless they are there.

    Raises:
        Conflict: the tag names another adapter, the repository holds a model, or it is public and should be private.
    """
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
                fix = f"push to another repository, or remove the tag with `hf repos tag delete {name} {tag}`"
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


def _clean(text: str, stores: Stores) -> str:
    """Return a text for others: without secrets, and without the folders and the user of this machine."""
    text = stores.redactor.clean(text)
    for place in (stores.settings.home, Path.home(), Path.cwd()):
        if place != Path(place.anchor):
            text = re.sub(rf"(?<!\w){re.escape(str(place))}(?![\w.-])", "~", text)
    return _HOME.sub("~", text)


def _read_evidence(version: values.AdapterVersion, stores: Stores) -> JsonObject:
    with stores.database.read() as session:
        return evidence.find(session, version.reference)[0].to_document()


def _read_text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""


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
