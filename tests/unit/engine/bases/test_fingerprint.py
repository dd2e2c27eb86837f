"""Fingerprints: changed by every change of the model, and by nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.models import DEFAULT, save_model

from finch_hub import errors
from finch_hub.engine.bases.fingerprint import compute_fingerprint, hash_file


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **changes}))


def test_copy_has_the_same_fingerprint(tiny_folder: Path, copy: Path) -> None:
    rewrite(copy / "config.json", _name_or_path="elsewhere", transformers_version="9.9")
    (copy / "README.md").write_text("notes")
    assert compute_fingerprint(copy) == compute_fingerprint(tiny_folder)


def test_every_part_of_the_model_changes_the_fingerprint(tiny_folder: Path, copy: Path, tmp_path: Path) -> None:
    found = {compute_fingerprint(tiny_folder)}
    rewrite(copy / "config.json", rms_norm_eps=1e-3)
    found.add(compute_fingerprint(copy))
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    found.add(compute_fingerprint(copy))
    rewrite(copy / "tokenizer.json", version="2.0")
    found.add(compute_fingerprint(copy))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    found.add(compute_fingerprint(copy))
    found.add(compute_fingerprint(save_model(DEFAULT, tmp_path / "other", seed=1)))
    assert len(found) == 6


def test_large_files_are_read_once(copy: Path, tmp_path: Path) -> None:
    cache, weights = tmp_path / "cache", copy / "model.safetensors"
    first = compute_fingerprint(copy, cache=cache)
    known = json.loads((cache / "fingerprints.json").read_bytes())
    known[str(weights)][3] = "0" * 64  # the stored hash is used
    (cache / "fingerprints.json").write_text(json.dumps(known))
    assert compute_fingerprint(copy, cache=cache) != first
    weights.touch()  # another mtime: the stored hash no longer counts
    assert compute_fingerprint(copy, cache=cache) == first


def test_damaged_cache_is_ignored(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "fingerprints.json").write_text("[1, 2")
    assert compute_fingerprint(copy, cache=tmp_path) == compute_fingerprint(copy)
    assert isinstance(json.loads((tmp_path / "fingerprints.json").read_bytes()), dict)


def test_links_into_the_hugging_face_cache_are_not_read(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.write_bytes(b"other content than its name says")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    assert hash_file(link) == "ab" * 32
    assert hash_file(blob) != "ab" * 32


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound):
        compute_fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(errors.Incompatible, match="no safetensors"):
        compute_fingerprint(tmp_path)


def test_bases_are_used_without_torch() -> None:
    code = (
        "import sys; from finch_hub.engine.bases import fingerprint, memory, sources, target_modules; "
        "print(sorted({'torch', 'transformers', 'peft'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
