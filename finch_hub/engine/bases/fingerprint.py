"""Fingerprint of a base model: equal if adapters work the same on both. Free of torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from finch_hub import errors
from finch_hub.engine.bases.json_cache import JsonCache
from finch_hub.formats import model_files
from finch_hub.formats.regular_files import open_regular_file
from finch_hub.progress import Meter

SCHEME = "2:"
"""Prefix of the fingerprints that this version computes. Earlier ones have none."""

# Saving the same model with another version of transformers, or from another folder, changes these fields. The last one
# names code, which is never loaded.
_VOLATILE = frozenset({"_name_or_path", "transformers_version", "auto_map"})
_TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "special_tokens_map.json", "tekken.json", "tokenizer.json",
    "tokenizer_config.json",
)  # fmt: skip
_FIRST_VOLATILE = frozenset({"_name_or_path", "transformers_version"})
_FIRST_TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json", "spiece.model",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
)  # fmt: skip
_CACHE_FILE = "fingerprints.json"


def compute_fingerprint(folder: Path, *, cache: Path | None = None) -> str:
    """Return the scheme and a sha256 (62 hex digits) over what transformers loads from the folder.

    That is the configuration, the files of the tokenizer and its chat templates, and the hash of each weight file. A
    folder may hold more: weights for other libraries, pickled ones, and vocabularies that tokenizer.json replaces.

    Args:
        folder: model folder with safetensors weights.
        cache: folder in which hashes of large files are stored by path, size, times and inode; None stores nothing.

    Raises:
        NotFound: the folder has no `config.json`.
        Incompatible: the folder has no safetensors weights.
        InvalidInput: its config or the index of its weights is damaged.
    """
    config = model_files.read_config(folder)
    files = [folder / name for name in _TOKENIZER_FILES]
    if not (folder / "tokenizer.json").is_file():
        files += [folder / name for name in ("merges.txt", *model_files.SLOW_VOCABULARIES)]
    files += sorted((folder / "additional_chat_templates").glob("*.jinja"))
    weights = model_files.weight_files(folder)
    if not weights:
        raise _no_weights(folder)
    parts = {
        "config": {name: value for name, value in config.items() if name not in _VOLATILE},
        "tokenizer": {file.relative_to(folder).as_posix(): _hash_small(file) for file in files if file.is_file()},
        "weights": {file.name: hash_file(file, cache=cache) for file in weights},
    }
    return SCHEME + _hash_parts(parts)[: 64 - len(SCHEME)]


def compute_first_fingerprint(folder: Path, *, cache: Path | None = None) -> str:
    """Return the fingerprint of the first scheme, which covered all safetensors files of the folder.

    Raises:
        NotFound, Incompatible, InvalidInput: as from :func:`compute_fingerprint`.
    """
    config = model_files.read_config(folder)
    files = [folder / name for name in _FIRST_TOKENIZER_FILES]
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise _no_weights(folder)
    return _hash_parts(
        {
            "config": {name: value for name, value in config.items() if name not in _FIRST_VOLATILE},
            "tokenizer": {file.name: _hash_small(file) for file in files if file.is_file()},
            "weights": {file.name: hash_file(file, cache=cache) for file in weights},
        }
    )


def is_first_scheme(fingerprint: str) -> bool:
    """Return whether an earlier version computed the fingerprint."""
    return ":" not in fingerprint


def compute_like(fingerprint: str, folder: Path, *, cache: Path | None = None) -> str:
    """Return the fingerprint of a folder in the scheme of another fingerprint, so that the two can be compared.

    Raises:
        NotFound, Incompatible, InvalidInput: as from :func:`compute_fingerprint`.
    """
    compute = compute_first_fingerprint if is_first_scheme(fingerprint) else compute_fingerprint
    return compute(folder, cache=cache)


def _no_weights(folder: Path) -> errors.Incompatible:
    what, fix = "has no safetensors weights", "convert the weights to safetensors first"
    return errors.Incompatible(what, fix=fix, subject=f"base model {folder}")


def _hash_parts(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _hash_small(file: Path) -> str:
    with open_regular_file(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_file(path: Path, *, cache: Path | None = None) -> str:
    """Return the sha256 (hex) of a file, from the cache if size, times and inode are unchanged.

    The Hugging Face cache names weight files by their sha256. Their names are not believed, since anybody can link to
    such a name.
    """
    real = os.path.realpath(path)
    with open_regular_file(path) as stream:
        return _hash_open_file(stream, real, cache)


def _hash_open_file(stream: BinaryIO, real: str, cache: Path | None) -> str:
    status = os.fstat(stream.fileno())
    # Programs can set the time of a change of the content, but not that of a change of the inode.
    state = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    hashes = JsonCache(cache, _CACHE_FILE)
    entry = hashes.get(real)
    if isinstance(entry, list) and entry[:-1] == state:
        return str(entry[-1])
    digest, meter = hashlib.sha256(), Meter("MB hashed", status.st_size, size=10**6)
    while chunk := stream.read(2**20):
        digest.update(chunk)
        meter.add(len(chunk))
    hashes.put(real, [*state, digest.hexdigest()])
    return digest.hexdigest()
