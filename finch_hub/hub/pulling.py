"""Files of an adapter in a repository of the Hugging Face Hub: their download, their base and their identity."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finch_hub import errors
from finch_hub.artifacts import hugging_face
from finch_hub.artifacts.config_cleaning import MAX_BYTES
from finch_hub.artifacts.hugging_face import RepositoryReference, translate_errors
from finch_hub.formats.atomic_writes import translate_write_errors
from finch_hub.formats.finch_record import RECORD
from finch_hub.formats.output_paths import find_existing
from finch_hub.formats.peft_config import read_leniently
from finch_hub.formats.peft_names import CONFIG, WEIGHTS
from finch_hub.registry import adapter_versions, artifact_lock, values
from finch_hub.specs.bases import is_hub_id
from finch_hub.specs.options import name_option
from finch_hub.specs.value import JsonObject, Value

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

    from finch_hub.registry.database import Session


class PulledVersion(Value):
    """A version from a repository.

    Attributes:
        is_new: whether this pull made the version, or the adapter had one of the same commit.
        identity: whether it is the one in `finch.json`, was changed to fit the base, or was compared with nothing.
        meanings: sentences that say which names of the adapter mean another version now.
    """

    version: values.AdapterVersion
    repository: str
    revision: str
    commit: str
    is_new: bool
    identity: Literal["equal", "changed", "unknown"]
    meanings: tuple[str, ...] = ()


def download(place: RepositoryReference, folder: Path) -> tuple[str, list[str]]:
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
    with translate_write_errors(folder):
        folder.mkdir()
        for name in wanted:
            if (snapshot / name).is_file():  # a link into the cache, out of its folder
                shutil.copyfile(snapshot / name, folder / name)
    return snapshot.name, named


def find_pulled(session: Session, name: str, origin: Mapping[str, str]) -> values.AdapterVersion | None:
    """Return the newest version of an adapter that came from the same commit."""
    for version in adapter_versions.find_made_in(session, name, origin["commit"]):
        if all(_read_origin(version).get(key) == origin[key] for key in ("repository", "commit")):
            return version
    return None


def find_base(
    place: RepositoryReference,
    record: Mapping[str, Any],
    folder: Path,
    named: Iterable[str],
    registered: Sequence[values.Base],
) -> values.Base:
    """Return the registered base that an adapter names in `finch.json`, its config or its card.

    Args:
        named: ids of bases in the card.

    Raises:
        Incompatible: it names none, or one that is not registered.
    """
    made = record.get("adapter", record)
    recorded = made.get("base") if isinstance(made, dict) else None
    recorded = recorded if isinstance(recorded, dict) else {}
    config = read_leniently(folder)
    texts = (recorded.get("public_id"), recorded.get("source"), config.get("base_model_name_or_path"), *named)
    ids = [name for name in texts if isinstance(name, str) and "/" in name]
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
    words, fix = f"finch-hub bases add {public}", f"name a base with {option}"
    if is_pinned := isinstance(revision, str) and re.fullmatch(r"[0-9a-f]{40}", revision) is not None:
        words += f" --revision {revision}"
    has_other = fingerprint is not None and any(base.hub_id in ids for base in registered)
    what = f"is for base {public}, which is {'registered with other files only' if has_other else 'not registered'}"
    if isinstance(fingerprint, str) and not is_pinned:
        what += f": its files have the fingerprint {fingerprint[:16]}, and no commit is known"
        raise errors.Incompatible(what, where=str(place), fix=f"`{words}` may bring other files; {fix}")
    raise errors.Incompatible(what, where=str(place), fix=f"run `{words}`, or {fix}")


class AlreadyPulled(Exception):
    """Another pull of the same commit made the version meanwhile."""

    def __init__(self, version: values.AdapterVersion) -> None:
        super().__init__(version.reference)
        self.version = version


def refuse_second(session: Session, name: str, origin: Mapping[str, str]) -> None:
    """Wait for other pulls of the same commit, and look for their version.

    Raises:
        AlreadyPulled: the adapter has a version of the commit.
    """
    artifact_lock.own_name(session, f"{origin['repository']}@{origin['commit']}")
    if (version := find_pulled(session, name, origin)) is not None:
        raise AlreadyPulled(version)


def list_identities(record: Mapping[str, Any]) -> list[str]:
    """Return the identities in a record: of the files, and of the version that they were made of."""
    made = record.get("adapter")
    found = (record.get("identity"), made.get("identity") if isinstance(made, dict) else None)
    return [text for text in found if isinstance(text, str)]


def compare_identity(declared: Collection[str], identity: str) -> Literal["equal", "changed", "unknown"]:
    """Compare the identity of a version that was pulled with those in its record."""
    if not declared:
        return "unknown"
    return "equal" if identity in declared else "changed"


def read_state(record: Mapping[str, Any]) -> values.VersionState | None:
    """Return the state of the version in a record, None if the record has none."""
    made = record.get("adapter")
    is_ready = isinstance(made, dict) and made.get("state") == "ready"
    return "ready" if is_ready else values.read_restriction(made)


def _read_origin(version: values.AdapterVersion) -> JsonObject:
    origin = version.lineage.environment.get("pulled")
    return origin if isinstance(origin, dict) else {}


def _list_bases(info: ModelInfo) -> list[str]:
    named = getattr(info.card_data, "base_model", None)
    return [name for name in ([named] if isinstance(named, str) else named or ()) if isinstance(name, str)]


def _check_files(info: ModelInfo, place: RepositoryReference, scratch: Path) -> None:
    """Check the names and sizes of a repository's files before they are downloaded.

    Raises:
        RefusedArtifact: there is no adapter in safetensors, or its files are too large.
        Unavailable: the disk has no room for them.
    """
    from huggingface_hub import constants

    from finch_hub.artifacts.adapter_checks import DEFAULT_POLICY

    sizes = {name: file.size or 0 for name, file in hugging_face.list_files(info).items()}
    limits = {CONFIG: MAX_BYTES, WEIGHTS: DEFAULT_POLICY.max_bytes, RECORD: 2**22}
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
    needed, cache = sum(sizes.get(name, 0) for name in limits), find_existing(Path(constants.HF_HUB_CACHE))
    is_one_disk = scratch.stat().st_dev == cache.stat().st_dev
    for disk in (scratch, cache):  # it is downloaded into the cache, and copied from there
        free = shutil.disk_usage(disk).free
        if needed * (2 if is_one_disk else 1) > free:
            full = f"could not pull {place}: it has {needed:,} bytes, and {free:,} are free for two copies"
            raise errors.Unavailable(f"{full} (free some space in {disk})")
