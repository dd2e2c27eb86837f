"""Fingerprint of a base model: what an adapter must share with it to mean the same thing. Free of torch."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from finch_hub import errors

# What a save by another version of transformers, or from another place, changes although the model is the same.
_VOLATILE = frozenset({"_name_or_path", "transformers_version"})
_TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
_CACHE_FILE = "fingerprints.json"


def fingerprint(folder: Path, *, cache: Path | None = None) -> str:
    """Return the sha256 (hex) over configuration, tokenizer files and the hash of each weight shard.

    Args:
        folder: a model folder with safetensors weights.
        cache: folder where the hashes of large files are remembered by path, size, mtime and inode; None remembers
            nothing.

    Raises:
        NotFound: the folder has no `config.json`.
        Incompatible: it has no safetensors weights.

    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise errors.NotFound("base model", str(folder))
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise errors.Incompatible(
            errors.Problem(
                what="has no safetensors weights", where=str(folder), fix="convert them to safetensors first"
            )
        )
    config = json.loads(config_file.read_bytes())
    parts: dict[str, Any] = {
        "config": {name: value for name, value in config.items() if name not in _VOLATILE},
        "tokenizer": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in _TOKENIZER_FILES
            if (folder / name).is_file()
        },
        "weights": {shard.name: hash_file(shard, cache=cache) for shard in shards},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_file(path: Path, *, cache: Path | None = None) -> str:
    """Return the sha256 (hex) of a file, from the cache where size, mtime and inode are those it was hashed at.

    Files of a Hugging Face cache are links to blobs that are named by this very hash, which saves reading them.
    """
    real = path.resolve()
    if real.parent.name == "blobs" and path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    status = real.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ino]
    known = _read_cache(cache)
    entry = known.get(str(real))
    if isinstance(entry, list) and entry[:3] == state:
        return str(entry[3])
    with real.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if cache is not None:
        _write_cache(cache, {**_read_cache(cache), str(real): [*state, digest]})
    return digest


def _read_cache(cache: Path | None) -> dict[str, Any]:
    if cache is None:
        return {}
    try:
        known = json.loads((cache / _CACHE_FILE).read_bytes())
    except (OSError, ValueError):
        return {}  # missing or damaged: hashing again is always right
    return known if isinstance(known, dict) else {}


def _write_cache(cache: Path, known: dict[str, Any]) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=cache, prefix=_CACHE_FILE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(known, stream)
    Path(name).replace(cache / _CACHE_FILE)
