"""The gate: what every adapter from outside, and every one made here, passes before it is stored."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from finch_hub import errors
from finch_hub.artifacts import archives, model_card
from finch_hub.formats import peft_config
from finch_hub.formats.peft_tensors import QUANTIZATION, SCALE, LoRAModule, lora_modules
from finch_hub.formats.safetensors_header import (
    SafetensorsHeader,
    TensorInfo,
    open_plain,
    read_safetensors_header,
    write_safetensors_header,
)
from finch_hub.formats.tensor_scan import FLOATS, scan

WEIGHTS = "adapter_model.safetensors"
CONFIG = peft_config.NAME
CARD = "README.md"
RECORD = "finch.json"
CONFIG_KEY = "adapter_config"
"""Metadata key under which a single file carries its config."""
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
_SHOWN = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class GatePolicy:
    """What the hub lets in.

    Attributes:
        max_bytes: of all files together, unpacked.
        max_tensors: in one file.
        max_update_norm: of ``scale * ‖B‖ * ‖A‖`` (Frobenius; an upper bound of the update's norm) in one module; what
            exceeds it is stored, but quarantined. Rank-16 adapters of the demo's data reach 3.

    """

    max_bytes: int = 8 * 2**30
    max_tensors: int = 65_536
    max_update_norm: float = 1e4


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmittedAdapter:
    """An adapter as it stands behind the gate.

    Attributes:
        folder: holds the cleaned config and the weights in canonical order, and nothing else.
        identity: hash of these two files, by which equal adapters are known.
        modules: each adapted module by its path in the base.
        parameters: entries of all factors.
        bytes: of the two files.
        quarantine: why it must not be served; empty for a good one.
        claimed_base: what the config said its base is; to be verified by shapes and fingerprint, never followed.
        card: the model card without HTML and scripts, None where there was none.

    """

    folder: Path
    identity: str
    modules: Mapping[str, LoRAModule]
    parameters: int
    bytes: int
    quarantine: tuple[str, ...]
    claimed_base: str | None
    claimed_revision: str | None
    card: str | None

    @property
    def rank(self) -> int:
        """Largest rank of all modules."""
        return max(module.rank for module in self.modules.values())


def admit_adapter(
    source: Path, into: Path, *, policy: GatePolicy = GatePolicy(), sha256: str | None = None
) -> AdmittedAdapter:
    """Check an adapter and write the cleaned one.

    Args:
        source: a PEFT folder, one safetensors file with the config in its metadata (key ``adapter_config``), or a zip
            or tar archive of a folder. Nothing in it is followed.
        into: folder to be made; it is removed again when the adapter is refused.
        policy: limits.
        sha256: the digest that the source is declared to have; of a folder, that of its weights' file.

    Raises:
        RefusedArtifact: with every problem found.
        NotFound: there is no such source.
        Conflict: `into` exists.

    """
    if not source.exists():
        raise errors.NotFound("adapter file or folder", str(source))
    if into.exists():
        raise errors.Conflict(f"{into} exists already")
    into.mkdir(parents=True)
    try:
        if archives.is_archive(source):
            _check_declared(source, sha256)
            with tempfile.TemporaryDirectory(dir=into.parent, prefix=".unpacked-") as scratch:
                folder = archives.unpack(source, Path(scratch) / "files", max_bytes=policy.max_bytes)
                return _admit(_only_folder(folder), into, policy)
        weights = source / WEIGHTS if source.is_dir() else source
        _check_declared(weights, sha256)
        return _admit(source, into, policy)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


def adapter_identity(folder: Path) -> str:
    """Return the hash by which equal adapters are known: that of the config's and the weights' bytes alone."""
    digests = []
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def check_shapes(modules: Mapping[str, LoRAModule], base: Mapping[str, tuple[int, int]], *, name: str) -> None:
    """Check that an adapter was made for a base of these module shapes, [out, in] by path.

    Raises:
        Incompatible: with every module that the base does not have, or has in another shape.

    """
    problems = []
    for path, module in modules.items():
        shape = base.get(path)
        if shape is None:
            problems.append(errors.Problem(where=path, what="is no linear module of the base"))
        elif shape != (module.outputs, module.inputs):
            what = f"is {[module.outputs, module.inputs]} in the adapter, {list(shape)} in the base"
            problems.append(errors.Problem(where=path, what=what, fix="name the base that it was trained on"))
    if problems:
        raise errors.Incompatible(_bounded(problems), subject=f"adapter and base {name}")


def _admit(source: Path, into: Path, policy: GatePolicy) -> AdmittedAdapter:
    weights = _weights_of(source)
    header = read_safetensors_header(weights)
    config = peft_config.clean_config(_config_text(source, header))
    problems: list[errors.Problem] = []
    if header.size > policy.max_bytes:
        problems.append(errors.Problem(what=f"has {header.size} bytes, more than {policy.max_bytes}"))
    if len(header.tensors) > policy.max_tensors:
        problems.append(errors.Problem(what=f"has {len(header.tensors)} tensors, more than {policy.max_tensors}"))
    if problems:
        raise errors.RefusedArtifact(problems, subject=weights.name)
    modules, problems = lora_modules(header.tensors, config.values, header.metadata)

    (into / CONFIG).write_bytes(config.to_bytes())
    kept = {key: value for key, value in header.metadata.items() if key in ("format", QUANTIZATION)}
    _write_weights(weights, header, kept, into / WEIGHTS)
    # Our own copy is what is scanned and stored: a file that changes meanwhile cannot slip through.
    copied = read_safetensors_header(into / WEIGHTS)
    norms: dict[str, float] = {}
    for name, info in copied.tensors.items():
        if info.dtype in FLOATS:
            found = scan(into / WEIGHTS, info)
            norms[name] = found.norm
            if found.nonfinite:
                problems.append(
                    errors.Problem(where=name, what=f"has {found.nonfinite} entries that are NaN or infinite")
                )
    if problems:
        raise errors.RefusedArtifact(_bounded(problems), subject=weights.name)
    identity = adapter_identity(into)
    card = _card_of(source, identity)
    return AdmittedAdapter(
        folder=into,
        identity=identity,
        modules=modules,
        parameters=sum(module.rank * (module.inputs + module.outputs) for module in modules.values()),
        bytes=sum((into / name).stat().st_size for name in (CONFIG, WEIGHTS)),
        quarantine=tuple(_too_large(modules, norms, copied.tensors, config, policy)),
        claimed_base=config.claimed_base,
        claimed_revision=config.claimed_revision,
        card=card,
    )


def _weights_of(source: Path) -> Path:
    """Return the safetensors file of a folder, or the file itself.

    Raises:
        RefusedArtifact: there is none, or a pickle of the same name lies beside it.

    """
    if not source.is_dir():
        if source.suffix in _PICKLES:
            what = f"is a {source.suffix} file, a pickle, which can run code when it is loaded"
            raise errors.RefusedArtifact(
                errors.Problem(what=what, fix="save the adapter with safetensors"), subject=source.name
            )
        return source
    pickles = sorted(path.name for path in source.iterdir() if path.suffix in _PICKLES)
    doubles = [name for name in pickles if name.startswith("adapter_model.")]
    if doubles or not (source / WEIGHTS).exists():
        found = f"; it has the pickle {', '.join(doubles or pickles)}, which can run code" if pickles else ""
        what = f"has {'a second form of its weights' if (source / WEIGHTS).exists() else f'no {WEIGHTS}'}{found}"
        fix = f"save the adapter with safetensors, as {WEIGHTS} alone"
        raise errors.RefusedArtifact(errors.Problem(what=what, fix=fix), subject=str(source))
    return source / WEIGHTS


def _config_text(source: Path, header: SafetensorsHeader) -> bytes:
    if not source.is_dir():
        text = header.metadata.get(CONFIG_KEY)
        if text is None:
            what = f"has no config: its metadata has no {CONFIG_KEY!r}"
            fix = f"put {CONFIG} and the weights, as {WEIGHTS}, into one folder and give that"
            raise errors.RefusedArtifact(errors.Problem(what=what, fix=fix), subject=source.name)
        return text.encode()
    with open_plain(source / CONFIG) as stream:
        return stream.read(2**20 + 1)


def _card_of(source: Path, identity: str) -> str | None:
    """Return the cleaned card of a folder, after checking that what it records of itself is true."""
    if not source.is_dir():
        return None
    if (source / RECORD).exists():
        with open_plain(source / RECORD) as stream:
            try:
                declared = json.loads(stream.read(2**22)).get("identity")
            except (ValueError, RecursionError, AttributeError):
                raise errors.RefusedArtifact(errors.Problem(where=RECORD, what="is no JSON object")) from None
        if declared not in (None, identity):
            what = f"declares the identity {str(declared)[:64]}, but the files have {identity}"
            raise errors.RefusedArtifact(
                errors.Problem(where=RECORD, what=what, fix=f"the files were changed; remove {RECORD} to import them")
            )
    if not (source / CARD).exists():
        return None
    with open_plain(source / CARD) as stream:
        return model_card.sanitize(stream.read(model_card.MAX_BYTES + 1))


def _write_weights(source: Path, header: SafetensorsHeader, metadata: Mapping[str, str], target: Path) -> None:
    head, order = write_safetensors_header(header.tensors, metadata)
    with source.open("rb") as origin, target.open("xb") as copy:
        copy.write(head)
        for name in order:
            for chunk in _chunks(origin, header.tensors[name]):
                copy.write(chunk)


def _chunks(stream: BinaryIO, info: TensorInfo) -> Iterator[bytes]:
    stream.seek(info.start)
    left = info.end - info.start
    while left and (chunk := stream.read(min(left, 2**20))):
        left -= len(chunk)
        yield chunk


def _too_large(
    modules: Mapping[str, LoRAModule],
    norms: Mapping[str, float],
    tensors: Mapping[str, TensorInfo],
    config: peft_config.CleanConfig,
    policy: GatePolicy,
) -> Iterator[str]:
    scales = peft_config.scales(config.values, {path: module.rank for path, module in modules.items()})
    for path, module in modules.items():
        norm = scales[path]
        for name in (module.a, module.b):
            if name in norms:
                norm *= norms[name]
            else:  # quantised: at most 127 (or 8) times its scale, in a whole group
                codes, step = tensors[name], tensors[name + SCALE]
                most = 127 if codes.dtype == "I8" else 8 * math.sqrt(2)
                norm *= norms[name + SCALE] * most * math.sqrt(codes.elements / step.elements)
        if not norm <= policy.max_update_norm:
            yield f"{path}: the update's norm may reach {norm:.3g}, beyond the policy's {policy.max_update_norm:g}"


def _check_declared(file: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    with open_plain(file) as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256.lower():
        what = f"has the SHA-256 {found}, not the declared {sha256[:64]}"
        raise errors.RefusedArtifact(errors.Problem(what=what, fix="fetch it again"), subject=file.name)


def _only_folder(folder: Path) -> Path:
    """Return the folder that has the config: the given one, or the single one in it."""
    inside = [path for path in folder.iterdir() if path.is_dir()]
    return inside[0] if not (folder / CONFIG).exists() and len(inside) == 1 else folder


def _bounded(problems: list[errors.Problem]) -> list[errors.Problem]:
    more = len(problems) - _SHOWN
    return problems[:_SHOWN] + ([errors.Problem(what=f"… and {more} more")] if more > 0 else [])
