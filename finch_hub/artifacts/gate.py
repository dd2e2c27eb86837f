"""The gate: the checks that every adapter must pass before it is stored, whether imported or made here."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finch_hub import errors
from finch_hub.artifacts import adapter_source, base_fit, config_cleaning, tensor_checks
from finch_hub.artifacts.adapter_checks import (
    DEFAULT_POLICY,
    GatePolicy,
    check_adapter,
    find_large_updates,
    find_overflows,
    read_config_in_metadata,
)
from finch_hub.artifacts.adapter_source import AdapterSource
from finch_hub.formats import config_fields, quantized
from finch_hub.formats.adapter_folder import shorten
from finch_hub.formats.base_layout import BaseLayout
from finch_hub.formats.finch_record import RECORD
from finch_hub.formats.json_checks import parse_object
from finch_hub.formats.lora_modules import LoRAModule
from finch_hub.formats.peft_names import BASE_LAYER, CONFIG, WEIGHTS, split_name
from finch_hub.formats.regular_files import open_regular_file
from finch_hub.formats.safetensors_file import SafetensorsFile
from finch_hub.formats.safetensors_header import FLOATS, TensorInfo, read_safetensors_header, write_safetensors_header

_MAX_RECORD_BYTES = 2**22
_IDENTITY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmittedAdapter:
    """A cleaned adapter.

    Attributes:
        folder: holds only the cleaned config and the weights in canonical order.
        identity: hash of these two files; equal adapters have equal identities.
        modules: adapted modules by their path in the base.
        quarantine: reasons not to serve the adapter; empty if there are none.
        ignored_fields: fields of the source's config that had a value and are not in the cleaned one.
        ignored_files: names of the files and folders beside it that were not read.
        notes: sentences that say what else of the source was changed or left out.
        origin: identity that its record names; not checked, and empty without a record.
        before: identity of the source's files, before the gate changed them.
    """

    folder: Path
    identity: str
    modules: Mapping[str, LoRAModule]
    quarantine: tuple[str, ...]
    ignored_fields: Mapping[str, Any]
    ignored_files: tuple[str, ...]
    notes: tuple[str, ...]
    origin: str
    before: str

    @property
    def rank(self) -> int:
        """Largest rank of all modules."""
        return max(module.rank for module in self.modules.values())


def admit_adapter(
    source: Path, into: Path, *, base: BaseLayout | None = None, policy: GatePolicy = DEFAULT_POLICY
) -> AdmittedAdapter:
    """Check an adapter and write the cleaned one.

    Args:
        source: a PEFT folder, a zip or tar archive of one, or one safetensors file with the config in its metadata.
            Folder and archive may have the adapter somewhere inside. No path or link in it is followed.
        into: folder to make; it is removed if the adapter is refused.
        base: modules of the base, against which the adapter is held; None if they are not known here.
        policy: limits.

    Raises:
        RefusedArtifact: with every problem found.
        Incompatible: the adapter does not fit the base, with every problem found.
        NotFound: the source does not exist.
        Conflict: `into` exists.
    """
    if not source.exists():
        raise errors.NotFound("adapter file or folder", str(source))
    if into.exists():
        raise errors.Conflict(f"the path {into} already exists")
    into.mkdir(parents=True)
    try:
        with tempfile.TemporaryDirectory(dir=into.parent, prefix=".unpacked-") as scratch:
            found = adapter_source.find_adapter(source, Path(scratch) / "files", max_bytes=policy.max_bytes)
            return _admit(found, into, base, policy)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


def adapter_identity(folder: Path) -> str:
    """Return the hash of an adapter's config and weights.

    The name of the base is left out: it can be given later, or change.
    """
    with (folder / WEIGHTS).open("rb") as stream:
        return identity_of((folder / CONFIG).read_bytes(), hashlib.file_digest(stream, "sha256").hexdigest())


def identity_of(config: bytes, weights: str) -> str:
    """Return the same hash of the text of a config and the SHA-256 of the weights.

    Raises:
        ValueError: the config is not a JSON object.
    """
    named = {**parse_object(config), "base_model_name_or_path": None}
    digests = [hashlib.sha256(config_cleaning.canonical_json(named)).hexdigest(), weights]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _admit(source: AdapterSource, into: Path, base: BaseLayout | None, policy: GatePolicy) -> AdmittedAdapter:
    with SafetensorsFile(source.weights) as file:
        text = _read_config(source, file.metadata)
        checked = check_adapter(file, text, base=base, policy=policy, shown=source.shown)
    config, scheme, tensors, modules = checked.config, checked.scheme, checked.tensors, checked.modules
    notes, problems = checked.notes, checked.problems
    if base is not None and not problems:
        _check_fit(modules, tensors, config, scheme, base, source.shown)
        if absent := base_fit.find_absent(modules, config, base):
            base_fit.pin_targets(config, modules)
            notes.append(f"target_modules names only modules that the file has, not {shorten(absent, 4)}")
        is_transposed = not base.transposed.isdisjoint(modules)
        if config["fan_in_fan_out"] != is_transposed:
            config["fan_in_fan_out"] = is_transposed
            notes.append(f"fan_in_fan_out is {str(is_transposed).lower()}, as the base stores its weights")

    (into / CONFIG).write_bytes(config_cleaning.canonical_json(config))
    metadata = {key: value for key, value in file.metadata.items() if key in ("format", quantized.METADATA)}
    _write_weights(source.weights, tensors, metadata, into / WEIGHTS)
    # The copy is scanned and stored, so that a source that changes meanwhile cannot pass unscanned.
    copied = read_safetensors_header(into / WEIGHTS)
    norms: dict[str, float] = {}
    for name, info in copied.tensors.items():
        if info.dtype in FLOATS:
            nonfinite, norms[name], largest = tensor_checks.scan_tensor(into / WEIGHTS, info)
            problems += tensor_checks.find_nonfinite(name, nonfinite)
            problems += tensor_checks.find_too_large(name, largest)
    if not problems:
        problems += find_overflows(modules, norms, copied.tensors, scheme)
    if problems:
        raise errors.RefusedArtifact(problems, subject=source.shown)
    identity = adapter_identity(into)
    before = _identify_source(source, text) if notes else identity
    return AdmittedAdapter(
        folder=into,
        identity=identity,
        modules=modules,
        quarantine=tuple(find_large_updates(modules, norms, copied.tensors, scheme, policy)),
        ignored_fields=checked.ignored_fields,
        ignored_files=source.leftovers,
        notes=tuple(notes),
        origin=_read_origin(source, identity, before),
        before=before,
    )


def _check_fit(
    modules: Mapping[str, LoRAModule],
    tensors: Mapping[str, TensorInfo],
    config: Mapping[str, Any],
    scheme: quantized.Scheme | None,
    base: BaseLayout,
    shown: str,
) -> None:
    """Check that an adapter fits its base.

    Raises:
        Incompatible: with every part that does not fit.
    """
    shapes = {name: info.shape for name, info in tensors.items()} if scheme is None else scheme.logical_shapes(tensors)
    wholes = {split_name(name)[0]: shape for name, shape in shapes.items() if split_name(name)[1] is None}
    others = {path.replace(BASE_LAYER, "."): shape for path, shape in wholes.items()}
    if problems := list(base_fit.find_misfits(modules, others, config, base)):
        raise errors.Incompatible(problems, subject=shown)


def _read_config(source: AdapterSource, metadata: Mapping[str, str]) -> bytes:
    if source.config is None:
        return read_config_in_metadata(metadata, shown=source.shown)
    with open_regular_file(source.config) as stream:
        return stream.read(config_cleaning.MAX_BYTES + 1)


def _identify_source(source: AdapterSource, config: bytes) -> str:
    """Return the identity of files that were brought to another form, empty if their config has none."""
    with open_regular_file(source.weights) as stream:
        weights = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        return identity_of(config, weights)
    except ValueError:
        return ""


def _read_origin(source: AdapterSource, identity: str, before: str) -> str:
    """Return the identity that a record names: the adapter's own, or that of the adapter which was exported.

    Args:
        before: identity of the files before the adapter was brought to another form.

    Raises:
        RefusedArtifact: the adapter's own identity is not true, or the record cannot be read.
    """
    if source.record is None:
        return ""
    with open_regular_file(source.record) as stream:
        try:
            record = parse_object(stream.read(_MAX_RECORD_BYTES))
        except ValueError as error:
            raise errors.RefusedArtifact(f"cannot be read: {str(error)[:200]}", where=RECORD) from None
    declared, exported = record.get("identity"), record.get("adapter")
    origin = exported.get("identity") if isinstance(exported, dict) else None
    for value in (declared, origin):
        if value is not None and not (isinstance(value, str) and _IDENTITY.fullmatch(value)):
            what = f"has the identity {config_fields.shorten(value)}, which is not a SHA-256"
            raise errors.RefusedArtifact(what, where=RECORD, fix=f"delete {RECORD} to import the files")
    if declared not in (None, identity, before):
        what = f"declares the identity {declared}, but the files have {before or identity}"
        fix = f"the files were changed; delete {RECORD} to import them"
        raise errors.RefusedArtifact(what, where=RECORD, fix=fix)
    return origin or declared or ""


def _write_weights(source: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str], target: Path) -> None:
    head, order = write_safetensors_header(tensors, metadata)
    with open_regular_file(source) as stream, target.open("xb") as copy:
        copy.write(head)
        for name in order:
            copy.writelines(tensor_checks.read_blocks(stream, tensors[name]))
