"""Fingerprint of a base model: equal if adapters work the same on both. Free of torch."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from finch_hub import errors
from finch_hub.engine.bases.json_cache import JsonCache

# Saving the same model with another version of transformers, or from another folder, changes these fields.
_VOLATILE = frozenset({"_name_or_path", "transformers_version"})
_TOKENIZER_FILES = (
    "added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json", "spiece.model",
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
)  # fmt: skip
_CACHE_FILE = "fingerprints.json"


def compute_fingerprint(folder: Path, *, cache: Path | None = None) -> str:
    """Return the sha256 (hex) over configuration, tokenizer files and the hash of each weight shard.

    Args:
        folder: model folder with safetensors weights.
        cache: folder in which hashes of large files are stored by path, size, mtime and inode; None stores nothing.

    Raises:
        NotFound: the folder has no `config.json`.
        Incompatible: the folder has no safetensors weights.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise errors.NotFound("base model", str(folder))
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        what, fix = "has no safetensors weights", "convert the weights to safetensors first"
        raise errors.Incompatible(what, fix=fix, subject=f"base model {folder}")
    config = json.loads(config_file.read_bytes())
    parts: dict[str, Any] = {  # JSON that is hashed
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
    """Return the sha256 (hex) of a file, from the cache if size, mtime and inode are unchanged.

    Weight files in the Hugging Face cache are links to files that are named by their sha256. They are not read.
    """
    real = path.resolve()
    if real.parent.name == "blobs" and path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", real.name):
        return real.name
    status = real.stat()
    state = [status.st_size, status.st_mtime_ns, status.st_ino]
    hashes = JsonCache(cache, _CACHE_FILE)
    entry = hashes.get(str(real))
    if isinstance(entry, list) and entry[:3] == state:
        return str(entry[3])
    with real.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    hashes.put(str(real), [*state, digest])
    return digest
