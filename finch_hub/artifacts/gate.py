"""The gate: the checks that every adapter must pass before it is stored, whether imported or made here."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from finch_hub import errors
from finch_hub.artifacts import archives, config_cleaning, tensor_checks
from finch_hub.formats import quantized
from finch_hub.formats.finch_record import RECORD
from finch_hub.formats.lora_modules import LoRAModule
from finch_hub.formats.peft_names import CONFIG, CONFIG_KEY, WEIGHTS
from finch_hub.formats.safetensors_header import (
    FLOATS,
    SafetensorsHeader,
    TensorInfo,
    open_regular_file,
    read_safetensors_header,
    write_safetensors_header,
)

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_SHOWN = 50
_MAX_RECORD_BYTES = 2**22


@dataclass(frozen=True, kw_only=True, slots=True)
class GatePolicy:
    """Limits of the gate.

    Attributes:
        max_bytes: of all files together, unpacked.
        max_tensors: in one file.
        max_update_norm: of ``scale * ‖B‖ * ‖A‖`` in one module, an upper bound of the update's Frobenius norm. An
            adapter above it is stored, but quarantined. Rank-16 adapters of the demo's data reach 3.
    """

    max_bytes: int = 8 * 2**30
    max_tensors: int = 65_536
    max_update_norm: float = 1e4


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmittedAdapter:
    """A cleaned adapter.

    Attributes:
        folder: holds only the cleaned config and the weights in canonical order.
        identity: hash of these two files; equal adapters have equal identities.
        modules: adapted modules by their path in the base.
        bytes: size of the two files.
        quarantine: reasons not to serve the adapter; empty if there are none.
    """

    folder: Path
    identity: str
    modules: Mapping[str, LoRAModule]
    bytes: int
    quarantine: tuple[str, ...]

    @property
    def rank(self) -> int:
        """Largest rank of all modules."""
        return max(module.rank for module in self.modules.values())


def admit_adapter(source: Path, into: Path, *, policy: GatePolicy = GatePolicy()) -> AdmittedAdapter:
    """Check an adapter and write the cleaned one.

    Args:
        source: a PEFT folder, a zip or tar archive of one, or one safetensors file with the config in its metadata.
            No path or link in it is followed.
        into: folder to make; it is removed if the adapter is refused.
        policy: limits.

    Raises:
        RefusedArtifact: with every problem found.
        NotFound: the source does not exist.
        Conflict: `into` exists.
    """
    if not source.exists():
        raise errors.NotFound("adapter file or folder", str(source))
    if into.exists():
        raise errors.Conflict(f"the path {into} already exists")
    into.mkdir(parents=True)
    try:
        if not archives.is_archive(source):
            return _admit(source, into, policy)
        with tempfile.TemporaryDirectory(dir=into.parent, prefix=".unpacked-") as scratch:
            folder = archives.unpack(source, Path(scratch) / "files", max_bytes=policy.max_bytes)
            return _admit(_find_adapter(folder), into, policy)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


def adapter_identity(folder: Path) -> str:
    """Return the hash of an adapter's config and weights."""
    digests = []
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def check_shapes(modules: Mapping[str, LoRAModule], base: Mapping[str, tuple[int, int]], *, name: str) -> None:
    """Check that an adapter fits a base of these module shapes, [out, in] by path.

    Raises:
        Incompatible: with every module that the base lacks or has in another shape.
    """
    problems = []
    for path, module in modules.items():
        shape = base.get(path)
        if shape is None:
            problems.append(errors.Problem(where=path, what="is not a linear module of the base"))
        elif shape != (module.outputs, module.inputs):
            what = f"is {[module.outputs, module.inputs]} in the adapter, {list(shape)} in the base"
            problems.append(errors.Problem(where=path, what=what, fix="name the base that it was trained on"))
    if problems:
        raise errors.Incompatible(_shorten(problems), subject=f"adapter and base {name}")


def _admit(source: Path, into: Path, policy: GatePolicy) -> AdmittedAdapter:
    weights = _find_weights(source)
    header = read_safetensors_header(weights)
    config = config_cleaning.clean_config(_read_config(source, header))
    problems: list[errors.Problem] = []
    if header.size > policy.max_bytes:
        problems.append(errors.Problem(what=f"has {header.size} bytes, more than {policy.max_bytes}"))
    if len(header.tensors) > policy.max_tensors:
        problems.append(errors.Problem(what=f"has {len(header.tensors)} tensors, more than {policy.max_tensors}"))
    if problems:
        raise errors.RefusedArtifact(problems, subject=weights.name)
    try:
        scheme = quantized.Scheme.of(header.metadata)
    except errors.Incompatible as error:
        raise errors.RefusedArtifact(error.problems, subject=weights.name) from None
    modules, problems = tensor_checks.check_tensors(header.tensors, config, scheme)

    (into / CONFIG).write_bytes(config_cleaning.canonical_json(config))
    metadata = {key: value for key, value in header.metadata.items() if key in ("format", quantized.METADATA)}
    _write_weights(weights, header, metadata, into / WEIGHTS)
    # The copy is scanned and stored, so that a source that changes meanwhile cannot pass unscanned.
    copied = read_safetensors_header(into / WEIGHTS)
    norms: dict[str, float] = {}
    for name, info in copied.tensors.items():
        if info.dtype in FLOATS:
            nonfinite, norms[name] = tensor_checks.scan_tensor(into / WEIGHTS, info)
            if nonfinite:
                problems.append(errors.Problem(where=name, what=f"has {nonfinite} entries that are NaN or infinite"))
    if problems:
        raise errors.RefusedArtifact(_shorten(problems), subject=weights.name)
    identity = adapter_identity(into)
    _check_record(source, identity)
    return AdmittedAdapter(
        folder=into,
        identity=identity,
        modules=modules,
        bytes=sum((into / name).stat().st_size for name in (CONFIG, WEIGHTS)),
        quarantine=tuple(_find_large_updates(modules, norms, copied.tensors, scheme, policy)),
    )


def _find_weights(source: Path) -> Path:
    """Return the safetensors file of a folder, or the file itself.

    Raises:
        RefusedArtifact: the file is missing, or the folder has a pickle of the same name.
    """
    if not source.is_dir():
        if source.suffix in _PICKLES:
            what = f"is a {source.suffix} file, a pickle, which can run code when it is loaded"
            raise errors.RefusedArtifact(what, fix="save the adapter with safetensors", subject=source.name)
        return source
    pickles = sorted(path.name for path in source.iterdir() if path.suffix in _PICKLES)
    duplicates = [name for name in pickles if name.startswith("adapter_model.")]
    if duplicates or not (source / WEIGHTS).exists():
        found = f"; it has the pickle {', '.join(duplicates or pickles)}, which can run code" if pickles else ""
        what = f"has {'a second form of its weights' if (source / WEIGHTS).exists() else f'no {WEIGHTS}'}{found}"
        fix = f"save the adapter with safetensors, as {WEIGHTS} alone"
        raise errors.RefusedArtifact(what, fix=fix, subject=str(source))
    return source / WEIGHTS


def _read_config(source: Path, header: SafetensorsHeader) -> bytes:
    if not source.is_dir():
        text = header.metadata.get(CONFIG_KEY)
        if text is None:
            what = f"has no config: its metadata have no {CONFIG_KEY!r}"
            fix = f"give a folder with {CONFIG} and the weights as {WEIGHTS}"
            raise errors.RefusedArtifact(what, fix=fix, subject=source.name)
        return text.encode()
    with open_regular_file(source / CONFIG) as stream:
        return stream.read(config_cleaning.MAX_BYTES + 1)


def _check_record(source: Path, identity: str) -> None:
    """Check that the identity in a folder's record, if it has one, is true.

    Raises:
        RefusedArtifact: it is not, or the record cannot be read.
    """
    if not source.is_dir() or not (source / RECORD).exists():
        return
    with open_regular_file(source / RECORD) as stream:
        try:
            declared = json.loads(stream.read(_MAX_RECORD_BYTES)).get("identity")
        except (ValueError, RecursionError, AttributeError):
            raise errors.RefusedArtifact("is not a JSON object", where=RECORD) from None
    if declared not in (None, identity):
        what = f"declares the identity {str(declared)[:64]}, but the files have {identity}"
        fix = f"the files were changed; delete {RECORD} to import them"
        raise errors.RefusedArtifact(what, where=RECORD, fix=fix)


def _write_weights(source: Path, header: SafetensorsHeader, metadata: Mapping[str, str], target: Path) -> None:
    head, order = write_safetensors_header(header.tensors, metadata)
    with source.open("rb") as stream, target.open("xb") as copy:
        copy.write(head)
        for name in order:
            copy.writelines(tensor_checks.read_blocks(stream, header.tensors[name]))


def _find_large_updates(
    modules: Mapping[str, LoRAModule],
    norms: Mapping[str, float],
    tensors: Mapping[str, TensorInfo],
    scheme: quantized.Scheme | None,
    policy: GatePolicy,
) -> Iterator[str]:
    for path, module in modules.items():
        norm = module.scale
        for name in (module.a, module.b):
            if name in norms:
                norm *= norms[name]
            elif scheme is not None:
                norm *= scheme.bound_norm(name, tensors[name], norms[name + quantized.SCALE])
        if not norm <= policy.max_update_norm:
            yield f"{path}: the update's norm may reach {norm:.3g}, above the limit of {policy.max_update_norm:g}"


def _find_adapter(folder: Path) -> Path:
    """Return the folder with the config: an archive's folder, or the only folder in it."""
    inside = [path for path in folder.iterdir() if path.is_dir()]
    return inside[0] if not (folder / CONFIG).exists() and len(inside) == 1 else folder


def _shorten(problems: list[errors.Problem]) -> list[errors.Problem]:
    more = len(problems) - _SHOWN
    return problems[:_SHOWN] + ([errors.Problem(what=f"… and {more} more")] if more > 0 else [])
